package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// Setting is one thing that can be set.
type Setting struct {
	// Path in the file, such as kvm.subnetPool.
	Path string
	// Help is one sentence without its end.
	Help string
	// Aliases are further environment variables.
	Aliases []string
	// Name of the flag, where it is not derived from Path.
	Name string
	// List: several values; separated by commas where only one text fits.
	List bool

	set func(string) error
	get func() string
}

// Flag is the name of the command line flag, without dashes.
func (s Setting) Flag() string {
	if s.Name != "" {
		return s.Name
	}
	return strings.ToLower(words(s.Path, "-"))
}

// Env lists the environment variables, the most specific first.
func (s Setting) Env() []string {
	return append([]string{"SANDBOXD_" + strings.ToUpper(words(s.Path, "_"))}, s.Aliases...)
}

// Value of the setting, as text.
func (s Setting) Value() string { return s.get() }

// words splits a path at its dots and capitals. Runs of capitals are one word.
func words(path, separator string) string {
	var b strings.Builder
	isUpper := func(i int) bool { return i >= 0 && i < len(path) && path[i] >= 'A' && path[i] <= 'Z' }
	for i, c := range []byte(path) {
		switch {
		case c == '.':
			b.WriteString(separator)
			continue
		case isUpper(i) && i > 0 && path[i-1] != '.' && !isUpper(i-1):
			b.WriteString(separator)
		}
		b.WriteByte(c)
	}
	return b.String()
}

// Settings lists everything that can be set in c, in the order of the help.
func Settings(c *Config) []Setting {
	return []Setting{
		text("dataDir", &c.DataDir, "Folder of the store, of images and of machines"),
		text("socket", &c.Socket, "Unix socket that the API is served on"),
		text("kubeconfig", &c.Kubeconfig, "Kubeconfig file of the Kubernetes cluster that keeps the objects, or in-cluster in a Pod; none unless set: the daemon keeps them"),
		text("cluster.namespace", &c.Cluster.Namespace, "With kubeconfig: namespace of the Lease of the one host that serves the cluster"),
		text("cluster.accept", &c.Cluster.Accept, "With kubeconfig: fingerprint of another cluster than this host's before, which it may join; what it has of the former may then be collected"),
		{
			Path: "listen", List: true,
			Help: "TCP addresses, as 127.0.0.1:6443, that the API is served on over TLS besides the socket; none unless set",
			set:  func(s string) (err error) { c.Listen, err = parseAddresses(s); return err },
			get:  func() string { return strings.Join(c.Listen, ",") },
		},
		{
			Path: "tls.names", List: true,
			Help: "Names and addresses that clients call this host by, besides its own and those of listen",
			set:  func(s string) error { c.TLS.Names = splitList(s); return nil },
			get:  func() string { return strings.Join(c.TLS.Names, ",") },
		},
		{
			Path: "hypervisor", Aliases: []string{"HYPERVISOR"},
			Help: "Provider of images that name none: kvm or virtualbox",
			set:  func(s string) (err error) { c.Hypervisor, err = parseProvider(s); return err },
			get:  func() string { return string(c.Hypervisor) },
		},
		text("kvm.uri", &c.KVM.URI, "URI of libvirt's driver"),
		text("kvm.socket", &c.KVM.Socket, "Unix socket of libvirt's daemon"),
		text("kvm.accelerator", &c.KVM.Accelerator, "What runs machines: kvm, tcg (emulation), or auto to find out"),
		parsed("kvm.subnetPool", &c.KVM.SubnetPool, netip.ParsePrefix, "IPv4 prefix that the networks of modes hostonly and nat are taken from"),
		alias(text("virtualbox.manage", &c.VirtualBox.Manage, "The VBoxManage program: a path, or a name to look for"), "VBOX_MANAGE_PATH"),
		text("virtualbox.machineFolder", &c.VirtualBox.MachineFolder, "Folder of VirtualBox's images and machines (default: virtualbox in dataDir)"),
		alias(text("virtualbox.userHome", &c.VirtualBox.UserHome, "VirtualBox's folder of settings (default: the user's own)"), "VBOX_USER_HOME"),
		parsed("virtualbox.executionEngine", &c.VirtualBox.ExecutionEngine, oneOf(EngineDefault, EngineNative, EngineInterpreter, EngineRecompiler), "What runs VirtualBox's machines: default, native, or the slow interpreter or recompiler, which need no driver"),
		parsed("virtualbox.subnetPool", &c.VirtualBox.SubnetPool, netip.ParsePrefix, "IPv4 prefix that VirtualBox's networks of mode hostonly are taken from"),
		alias(text("baseImageDir", &c.BaseImageDir, "Folder in which relative image paths are looked up (default: base-images in dataDir)"), "BASE_IMAGE_DIR"),
		{
			Path: "allowedHostPaths", List: true,
			Help: "Folders of the host below which manifests may name files and folders; none unless set",
			set:  func(s string) error { c.AllowedHostPaths = splitList(s); return nil },
			get:  func() string { return strings.Join(c.AllowedHostPaths, ",") },
		},
		parsed("defaults.cpus", &c.Defaults.CPUs, parseInt[int32], "Virtual CPUs of a sandbox when neither it nor its image says"),
		parsed("defaults.memory", &c.Defaults.Memory, resource.ParseQuantity, "Memory of a sandbox when neither it nor its image says"),
		parsed("capacity.memory", &c.Capacity.Memory, resource.ParseQuantity, "Memory for machines that run; 0: the host's, less 10 % and 1Gi at least"),
		parsed("capacity.cpus", &c.Capacity.CPUs, parseInt[int], "Virtual CPUs for machines that run; 0: as many as the host has logical ones"),
		parsed("capacity.disk", &c.Capacity.Disk, resource.ParseQuantity, "Disk for machines, as their guests see it; 0: what is free for them on the file system that they are made on, less 5 % of it"),
		parsed("capacity.sandboxes", &c.Capacity.Sandboxes, parseInt[int], "How many machines there may be; 0: no limit"),
		parsed("capacity.overcommit.memory", &c.Capacity.Overcommit.Memory, parseFactor, "Factor by which more memory is given away than there is; 0: no limit"),
		parsed("capacity.overcommit.cpus", &c.Capacity.Overcommit.CPUs, parseFactor, "Factor by which more CPUs are given away than there are; 0: no limit"),
		parsed("capacity.overcommit.disk", &c.Capacity.Overcommit.Disk, parseFactor, "Factor by which more disk is given away than there is; 0: no limit"),
		parsed("workers", &c.Workers, parseInt[int], "How many sandboxes are worked on at a time"),
		parsed("resync", &c.Resync, time.ParseDuration, "How often settled objects are looked at without being woken"),
		parsed("gc.interval", &c.GC.Interval, time.ParseDuration, "How often left-over things are looked for"),
		parsed("gc.grace", &c.GC.Grace, time.ParseDuration, "How long something must be seen to be left over before it is removed"),
		named(text("manifests.dir", &c.Manifests.Dir, "Folder of manifests, such as a git checkout, that is applied all the time and never written to; none unless set"), "manifests"),
		parsed("manifests.interval", &c.Manifests.Interval, time.ParseDuration, "How often that folder is looked at"),
		parsed("manifests.prune", &c.Manifests.Prune, strconv.ParseBool, "Whether objects that leave that folder are deleted"),
		parsed("manifests.pruneHold", &c.Manifests.PruneHold, time.ParseDuration, "How long that folder must have stayed as it is before more than half of its objects are deleted at once"),
		{
			Path: "metrics.address",
			Help: "TCP address, as 127.0.0.1:9090, that metrics are served on besides the socket, to whoever reaches it; none unless set",
			set:  func(s string) (err error) { c.Metrics.Address, err = parseAddress(s); return err },
			get:  func() string { return c.Metrics.Address },
		},
		text("audit.file", &c.Audit.File, "File that what was asked for is recorded in; none: nothing is recorded (default: audit/audit.log in dataDir)"),
		parsed("audit.maxSize", &c.Audit.MaxSize, resource.ParseQuantity, "Size at which another file of the audit log is begun"),
		parsed("audit.maxFiles", &c.Audit.MaxFiles, parseInt[int], "How many files of the audit log are kept, the current one included"),
		parsed("audit.sync", &c.Audit.Sync, strconv.ParseBool, "Whether a line of the audit log is on the disk before its request is answered, and outlives a crash of the host"),
		parsed("audit.commands", &c.Audit.Commands, strconv.ParseBool, "Whether all words and variables of commands are recorded, which may hold secrets; otherwise the first word is"),
		parsed("profiling", &c.Profiling, strconv.ParseBool, "Whether profiles of the daemon are served on its socket, below /debug/pprof/"),
		parsed("log.level", &c.Log.Level, oneOf(LevelDebug, LevelInfo, LevelError), "How much is logged: debug, info or error"),
		parsed("log.format", &c.Log.Format, oneOf(FormatText, FormatJSON), "Form of the log lines: text or json"),
	}
}

func text(path string, field *string, help string) Setting {
	return Setting{
		Path: path, Help: help,
		set: func(s string) error {
			if s == "" || strings.ContainsRune(s, 0) {
				return fmt.Errorf("a value is needed")
			}
			*field = s
			return nil
		},
		get: func() string { return *field },
	}
}

func parsed[T any](path string, field *T, parse func(string) (T, error), help string) Setting {
	return Setting{
		Path: path, Help: help,
		set: func(s string) error {
			v, err := parse(s)
			if err == nil {
				*field = v
			}
			return err
		},
		get: func() string { return format(*field) },
	}
}

// format is the inverse of the parsers.
func format(v any) string {
	switch v := v.(type) {
	case resource.Quantity:
		return v.String()
	case time.Duration:
		return shortDuration(v)
	default:
		return fmt.Sprint(v)
	}
}

// shortDuration leaves out the units that are zero: 2m, not 2m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func alias(s Setting, names ...string) Setting {
	s.Aliases = names
	return s
}

func named(s Setting, name string) Setting {
	s.Name = name
	return s
}

func parseInt[T int | int32](s string) (T, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", s)
	}
	return T(n), nil
}

// parseFactor takes a number from 0 to 1000.
func parseFactor(s string) (float64, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 0 && f <= 1000) {
		return 0, fmt.Errorf("%q is not a number from 0 to 1000", s)
	}
	return f, nil
}

func oneOf[T ~string](values ...T) func(string) (T, error) {
	return func(s string) (T, error) {
		if slices.Contains(values, T(s)) {
			return T(s), nil
		}
		names := make([]string, len(values))
		for i, v := range values {
			names[i] = string(v)
		}
		return "", fmt.Errorf("%q is not one of %s", s, strings.Join(names, ", "))
	}
}

// parseProvider knows the short name of VirtualBox too.
func parseProvider(s string) (v1.ProviderName, error) {
	switch strings.ToLower(s) {
	case "kvm":
		return v1.ProviderKVM, nil
	case "virtualbox", "vbox":
		return v1.ProviderVirtualBox, nil
	}
	return "", fmt.Errorf("%q is not one of kvm, virtualbox", s)
}

func splitList(s string) []string {
	var list []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}

// parseAddresses takes several.
func parseAddresses(s string) ([]string, error) {
	list := splitList(s)
	for _, address := range list {
		if _, err := parseAddress(address); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// parseAddress takes an IP address with a port.
func parseAddress(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if _, err := netip.ParseAddrPort(s); err != nil {
		return "", fmt.Errorf("%q is not an IP address with a port, such as 127.0.0.1:9090", s)
	}
	return s, nil
}
