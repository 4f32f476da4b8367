package config

import (
	"io/fs"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// host makes a Host of given variables and files.
func host(root bool, env, files map[string]string) Host {
	return Host{
		Root: root, UID: 1000,
		Getenv: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		ReadFile: func(name string) ([]byte, error) {
			if text, ok := files[name]; ok {
				return []byte(text), nil
			}
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		},
	}
}

func TestDefaults(t *testing.T) {
	c, err := Load(host(true, nil, nil), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.DataDir != "/var/lib/sandboxd" || c.Socket != "/run/sandboxd/sandboxd.sock" || c.BaseImageDir != "/var/lib/sandboxd/base-images" ||
		c.Hypervisor != v1.ProviderKVM || c.Defaults.CPUs != 1 || c.Defaults.Memory.String() != "512Mi" || len(c.AllowedHostPaths) != 0 {
		t.Errorf("got %+v", c)
	}
	user, err := Load(host(false, map[string]string{"HOME": "/home/me", "XDG_RUNTIME_DIR": "/run/user/7"}, nil), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if user.DataDir != "/home/me/.local/share/sandboxd" || user.Socket != "/run/user/7/sandboxd/sandboxd.sock" {
		t.Errorf("got %+v", user)
	}
}

// TestDefaultsOnMacOS: there is neither /run nor libvirt.
func TestDefaultsOnMacOS(t *testing.T) {
	for name, c := range map[string]struct {
		root         bool
		env          map[string]string
		data, socket string
	}{
		"root":         {true, nil, "/Library/Application Support/sandboxd", "/var/run/sandboxd/sandboxd.sock"},
		"user":         {false, map[string]string{"HOME": "/Users/me"}, "/Users/me/Library/Application Support/sandboxd", "/Users/me/Library/Application Support/sandboxd/sandboxd.sock"},
		"user, by XDG": {false, map[string]string{"HOME": "/Users/me", "XDG_DATA_HOME": "/d", "XDG_RUNTIME_DIR": "/r"}, "/d/sandboxd", "/r/sandboxd/sandboxd.sock"},
	} {
		h := host(c.root, c.env, nil)
		h.System = "darwin"
		got, err := Load(h, "", nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.DataDir != c.data || got.Socket != c.socket || got.Hypervisor != v1.ProviderVirtualBox {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	h := host(true, nil, nil)
	h.System = "darwin"
	if got, err := Load(h, "", map[string]string{"hypervisor": "kvm"}); err != nil || got.Hypervisor != v1.ProviderKVM {
		t.Errorf("a choice was not taken: %s, %v", got.Hypervisor, err)
	}
	long := "/" + strings.Repeat("s", h.maxSocket())
	if _, err := Load(h, "", map[string]string{"socket": long}); err == nil || !strings.Contains(err.Error(), "longer than the 90 bytes") {
		t.Errorf("a socket of %d bytes: %v", len(long), err)
	}
	if _, err := Load(h, "", map[string]string{"socket": long[:len(long)-1]}); err != nil {
		t.Errorf("a socket of %d bytes: %v", len(long)-1, err)
	}
}

// TestPrecedence sets every setting in every way.
func TestPrecedence(t *testing.T) {
	for _, s := range Settings(&Config{}) {
		values := samples(s.Path)
		file := map[string]string{"/c.yaml": nest(s.Path, values[0])}
		load := func(env, flags map[string]string) string {
			t.Helper()
			if env == nil {
				env = map[string]string{}
			}
			c, err := Load(host(true, env, file), "/c.yaml", flags)
			if err != nil {
				t.Fatalf("%s: %v", s.Path, err)
			}
			for _, loaded := range Settings(&c) {
				if loaded.Path == s.Path {
					return loaded.Value()
				}
			}
			return ""
		}
		if got := load(nil, nil); got != values[0] {
			t.Errorf("%s: the file says %q, got %q", s.Path, values[0], got)
		}
		for _, name := range s.Env() {
			if got := load(map[string]string{name: values[1]}, nil); got != values[1] {
				t.Errorf("%s: %s says %q, got %q", s.Path, name, values[1], got)
			}
		}
		if len(s.Aliases) > 0 { // the specific variable counts more
			if got := load(map[string]string{s.Aliases[0]: values[2], s.Env()[0]: values[1]}, nil); got != values[1] {
				t.Errorf("%s: got %q, want %q", s.Path, got, values[1])
			}
		}
		if got := load(map[string]string{s.Env()[0]: values[1]}, map[string]string{s.Path: values[2]}); got != values[2] {
			t.Errorf("%s: the flag says %q, got %q", s.Path, values[2], got)
		}
	}
}

// samples are three valid values of a setting.
func samples(path string) [3]string {
	switch path {
	case "hypervisor":
		return [3]string{"virtualbox", "kvm", "virtualbox"}
	case "kvm.accelerator":
		return [3]string{"kvm", "tcg", "auto"}
	case "virtualbox.executionEngine":
		return [3]string{"native", "interpreter", "recompiler"}
	case "kvm.subnetPool", "virtualbox.subnetPool":
		return [3]string{"10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"}
	case "defaults.cpus", "workers", "capacity.cpus", "capacity.sandboxes":
		return [3]string{"2", "3", "4"}
	case "defaults.memory", "capacity.memory", "capacity.disk":
		return [3]string{"1Gi", "2Gi", "3Gi"}
	case "capacity.overcommit.memory", "capacity.overcommit.cpus", "capacity.overcommit.disk":
		return [3]string{"1.5", "2", "0"}
	case "resync", "gc.interval", "gc.grace", "manifests.interval", "manifests.pruneHold":
		return [3]string{"2m", "3h", "10s"}
	case "log.level":
		return [3]string{"debug", "error", "info"}
	case "log.format":
		return [3]string{"json", "text", "json"}
	case "listen":
		return [3]string{"127.0.0.1:1", "[::1]:2,0.0.0.0:2", "127.0.0.1:3"}
	case "tls.names":
		return [3]string{"a.example.org,192.0.2.1", "b", "*.example.org"}
	case "audit.maxSize":
		return [3]string{"1Mi", "2Mi", "3Mi"}
	case "audit.maxFiles":
		return [3]string{"2", "3", "4"}
	case "audit.sync", "audit.commands":
		return [3]string{"true", "false", "true"}
	case "audit.file":
		return [3]string{"/one", "none", "/three"}
	case "metrics.address":
		return [3]string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"}
	case "profiling", "manifests.prune":
		return [3]string{"true", "false", "true"}
	case "allowedHostPaths":
		return [3]string{"/a,/b", "/c", "/d,/e"}
	default:
		return [3]string{"/one", "/two", "/three"}
	}
}

// nest writes a setting as YAML.
func nest(path, value string) string {
	if path == "allowedHostPaths" || path == "listen" || path == "tls.names" {
		value = "[" + value + "]"
	}
	var b strings.Builder
	parts := strings.Split(path, ".")
	for i, part := range parts {
		b.WriteString(strings.Repeat("  ", i) + part + ":")
		if i < len(parts)-1 {
			b.WriteString("\n")
		}
	}
	return b.String() + " " + value + "\n"
}

func TestNames(t *testing.T) {
	want := map[string][2]string{
		"kvm.subnetPool":   {"kvm-subnet-pool", "SANDBOXD_KVM_SUBNET_POOL"},
		"dataDir":          {"data-dir", "SANDBOXD_DATA_DIR"},
		"kvm.uri":          {"kvm-uri", "SANDBOXD_KVM_URI"},
		"gc.grace":         {"gc-grace", "SANDBOXD_GC_GRACE"},
		"allowedHostPaths": {"allowed-host-paths", "SANDBOXD_ALLOWED_HOST_PATHS"},
	}
	for _, s := range Settings(&Config{}) {
		if w, ok := want[s.Path]; ok && (s.Flag() != w[0] || s.Env()[0] != w[1]) {
			t.Errorf("%s: got %s and %s, want %v", s.Path, s.Flag(), s.Env()[0], w)
		}
		delete(want, s.Path)
	}
	if len(want) > 0 {
		t.Errorf("there are no settings %v", want)
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		file  string
		env   map[string]string
		flags map[string]string
		want  string
	}{
		"unknown setting":      {file: "sockett: /x\n", want: `configuration file /c.yaml: there is no setting sockett: `},
		"unknown below":        {file: "kvm:\n  memory: 1\n", want: `there is no setting kvm.memory`},
		"a map is wanted":      {file: "kvm: tcg\n", want: `setting kvm must be a map`},
		"a text is wanted":     {file: "socket:\n  path: /x\n", want: `setting socket: a text, a number or a boolean is wanted`},
		"a list is not wanted": {file: "socket: [/x]\n", want: `setting socket: one value is wanted, not a list`},
		"bad list":             {file: "allowedHostPaths: [1]\n", want: `setting allowedHostPaths: 1 is not a text without commas`},
		"bad YAML":             {file: "a: [\n", want: `configuration file /c.yaml: it is not valid YAML: `},
		"duplicate":            {file: "workers: 1\nworkers: 2\n", want: `it is not valid YAML: `},
		"not a map":            {file: "- a\n", want: `it must be a map of settings`},
		"too large":            {file: "# " + strings.Repeat("x", maxFile), want: `is larger than 64 KiB`},
		"bad duration":         {file: "resync: often\n", want: `setting resync: `},
		"too short":            {file: "resync: 1ms\n", want: `resync 1ms is less than 1s`},
		"relative":             {file: "dataDir: data\n", want: `configuration: dataDir "data" is not an absolute path`},
		"relative root":        {env: map[string]string{"SANDBOXD_ALLOWED_HOST_PATHS": "/a,b"}, want: `allowedHostPaths: "b" is not an absolute path`},
		"relative manifests":   {flags: map[string]string{"manifests.dir": "here"}, want: `manifests.dir "here" is not an absolute path`},
		"manifests of cluster": {flags: map[string]string{"manifests.dir": "/m", "kubeconfig": "/k"}, want: `manifests.dir and kubeconfig exclude one another`},
		"listening in cluster": {flags: map[string]string{"listen": "127.0.0.1:6443", "kubeconfig": "/k"}, want: `listen and kubeconfig exclude one another`},
		"hurried manifests":    {flags: map[string]string{"manifests.interval": "1ms"}, want: `manifests.interval 1ms is less than 1s`},
		"bad provider":         {env: map[string]string{"HYPERVISOR": "xen"}, want: `environment variable HYPERVISOR: "xen" is not one of kvm, virtualbox`},
		"bad memory":           {flags: map[string]string{"defaults.memory": "1Mi"}, want: `defaults.memory 1Mi is less than 64Mi`},
		"no capacity":          {flags: map[string]string{"capacity.memory": "-1"}, want: `capacity: none of memory -1, cpus 0, disk 0 and sandboxes 0 may be less than 0`},
		"bad factor":           {flags: map[string]string{"capacity.overcommit.cpus": "-2"}, want: `flag --capacity-overcommit-cpus: "-2" is not a number from 0 to 1000`},
		"not a factor":         {flags: map[string]string{"capacity.overcommit.disk": "NaN"}, want: `flag --capacity-overcommit-disk: "NaN" is not a number from 0 to 1000`},
		"listen by name":       {flags: map[string]string{"listen": "localhost:6443"}, want: `flag --listen: "localhost:6443" is not an IP address with a port`},
		"listen without port":  {env: map[string]string{"SANDBOXD_LISTEN": "127.0.0.1:1,127.0.0.1"}, want: `"127.0.0.1" is not an IP address with a port`},
		"no name":              {flags: map[string]string{"tls.names": "a,b_c"}, want: `tls.names: "b_c" is neither a name nor an address of a host`},
		"relative audit log":   {flags: map[string]string{"audit.file": "audit.log"}, want: `audit.file "audit.log" is neither an absolute path nor "none"`},
		"small audit log":      {flags: map[string]string{"audit.maxSize": "1Ki"}, want: `audit.maxSize 1Ki is less than 64Ki`},
		"one audit log":        {flags: map[string]string{"audit.maxFiles": "1"}, want: `audit.maxFiles 1 is not between 2 and 1000`},
		"bad workers":          {flags: map[string]string{"workers": "0"}, want: `workers 0 is not between 1 and 1024`},
		"bad pool":             {flags: map[string]string{"kvm.subnetPool": "10.0.0.0/24"}, want: `kvm.subnetPool 10.0.0.0/24 is not an IPv4 prefix of at most /20`},
		"long socket":          {flags: map[string]string{"socket": "/" + strings.Repeat("x", 200)}, want: `is longer than the 94 bytes`},
		"empty value":          {flags: map[string]string{"dataDir": ""}, want: `flag --data-dir: a value is needed`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(host(true, c.env, map[string]string{"/c.yaml": c.file}), "/c.yaml", c.flags)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("not one sentence: %q", err)
			}
		})
	}
}

func TestFileIsOptionalOnlyWhenNotNamed(t *testing.T) {
	if _, err := Load(host(true, nil, nil), "/nowhere.yaml", nil); err == nil {
		t.Error("a file that was named and does not exist was passed over")
	}
	if _, err := Load(host(true, map[string]string{"SANDBOXD_CONFIG": "/nowhere.yaml"}, nil), "", nil); err == nil {
		t.Error("a file that the environment names and does not exist was passed over")
	}
	c, err := Load(host(true, nil, map[string]string{SystemFile: "workers: 5\n"}), "", nil)
	if err != nil || c.Workers != 5 {
		t.Errorf("the system's file: got %d workers and %v", c.Workers, err)
	}
	if c, err := Load(host(true, nil, map[string]string{"/c.yaml": "# nothing\nkvm:\n"}), "/c.yaml", nil); err != nil || c.Resync != time.Minute {
		t.Errorf("an empty file: got %v and %v", c.Resync, err)
	}
}

// TestDocumented: the documentation lists every setting with its default.
func TestDocumented(t *testing.T) {
	raw, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	c := Default(host(true, nil, nil))
	for _, s := range Settings(&c) {
		row := regexp.MustCompile(`(?m)^\| ` + regexp.QuoteMeta("`"+s.Path+"`") + ` \|.*$`).FindString(string(raw))
		for _, part := range append(s.Env(), s.Value(), "--"+s.Flag()) {
			if !strings.Contains(row, part) {
				t.Errorf("docs/configuration.md: the row of %s lacks %q: %s", s.Path, part, row)
			}
		}
	}
}

// TestEverythingIsSettable: no field of Config is without a setting.
func TestEverythingIsSettable(t *testing.T) {
	var fields func(v reflect.Type) int
	fields = func(v reflect.Type) int {
		if v.Kind() != reflect.Struct || v.PkgPath() != reflect.TypeFor[Config]().PkgPath() {
			return 1
		}
		n := 0
		for i := range v.NumField() {
			n += fields(v.Field(i).Type)
		}
		return n
	}
	if want, got := fields(reflect.TypeFor[Config]()), len(Settings(&Config{})); got != want {
		t.Errorf("there are %d settings and %d fields", got, want)
	}
}

// TestManifestsDir: a directory is the same one however it is spelt, because its
// objects are known by its name.
func TestManifestsDir(t *testing.T) {
	for _, dir := range []string{"/srv/m", "/srv/m/", "/srv//x/../m/."} {
		c, err := Load(host(true, nil, nil), "", map[string]string{"manifests.dir": dir})
		if err != nil || c.Manifests.Dir != "/srv/m" {
			t.Errorf("%s: got %q, %v", dir, c.Manifests.Dir, err)
		}
	}
}
