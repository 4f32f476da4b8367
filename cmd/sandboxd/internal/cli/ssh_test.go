package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// TestSSHTarget: what is not the name of a sandbox or of a user never reaches ssh.
func TestSSHTarget(t *testing.T) {
	for _, c := range []struct{ text, login, name, namespace, user, err string }{
		{text: "web", name: "web", namespace: "default"},
		{text: "alice@web", name: "web", namespace: "default", user: "alice"},
		{text: "web", login: "alice", name: "web", namespace: "default", user: "alice"},
		{text: "alice@web", login: "alice", name: "web", namespace: "default", user: "alice"},
		{text: "alice@team/web", name: "web", namespace: "team", user: "alice"},
		{text: "alice@example.org@sbx/web", name: "web", namespace: "default", user: "alice@example.org"},
		{text: `DOMAIN\alice@web`, name: "web", namespace: "default", user: `DOMAIN\alice`},
		{text: "bob@web", login: "alice", err: "bob@ and -l alice say two users: say one"},
		{text: "@web", err: "there is no user before the @: say USER@SANDBOX or SANDBOX"},
		{text: "-oProxyCommand=x@web", err: `"-oProxyCommand=x" is not the name of a user`},
		{text: "web", login: "-oProxyCommand=x", err: `"-oProxyCommand=x" is not the name of a user`},
		{text: "a b@web", err: `"a b" is not the name of a user`},
		{text: "$(id)@web", err: `"$(id)" is not the name of a user`},
		{text: "a\x1b@web", err: `"a\x1b" is not the name of a user`},
		{text: "alice@-oProxyCommand=x", err: `"-oProxyCommand=x" is not the name of a sandbox: use NAME or NAMESPACE/NAME`},
		{text: "alice@-n/web", err: `"-n/web" is not the name of a sandbox: use NAME or NAMESPACE/NAME`},
		{text: "alice@team/-web", err: `"team/-web" is not the name of a sandbox: use NAME or NAMESPACE/NAME`},
		{text: "alice@", err: `"" is not the name of a sandbox: use NAME or NAMESPACE/NAME`},
	} {
		key, user, err := (&app{}).sshTarget(c.text, c.login)
		if c.err != "" {
			if err == nil || err.Error() != c.err {
				t.Errorf("%q, -l %q: %v, want %q", c.text, c.login, err, c.err)
			}
			continue
		}
		if want := (types.NamespacedName{Namespace: c.namespace, Name: c.name}); err != nil || key != want || user != c.user {
			t.Errorf("%q, -l %q: %v, %q, %v", c.text, c.login, key, user, err)
		}
	}
}

// TestSSHCommand: ssh takes the first of what is said twice, so the connection comes
// first and what a user may say otherwise last; nothing after -- is an option.
func TestSSHCommand(t *testing.T) {
	argv := sshCommand(session{
		program: "/usr/bin/sandboxd", socket: "/run/s.sock", key: types.NamespacedName{Namespace: "team", Name: "web"}, host: "uid",
		known: "/home/a b/known", user: "root", port: 22, identities: []string{"key"}, options: []string{"ForwardAgent=yes"}, tty: 5, command: []string{"-x", "a b"},
	})
	dashes := slices.Index(argv, "--")
	if want := []string{"-l", "root", "--", "web.team.sandboxd", "-x", "a b"}; !slices.Equal(argv[dashes-2:], want) {
		t.Errorf("it ends with %q, want %q", argv[dashes-2:], want)
	}
	order := []string{
		"ProxyCommand=/usr/bin/sandboxd port-forward --stdio --socket /run/s.sock --namespace team -- web 22",
		"HostKeyAlias=uid", "ForwardAgent=yes", `UserKnownHostsFile="/home/a b/known"`, "ForwardAgent=no", "key",
	}
	last := -1
	for _, word := range order {
		i := slices.Index(argv, word)
		if i <= last {
			t.Errorf("%q is at %d of %q, after %d", word, i, argv, last)
		}
		last = i
	}
	for _, word := range []string{"ForwardX11=no", "PermitLocalCommand=no", "ClearAllForwardings=yes", "StrictHostKeyChecking=accept-new", "ControlPath=none", "IdentitiesOnly=yes"} {
		if !slices.Contains(argv, word) {
			t.Errorf("%s is missing in %q", word, argv)
		}
	}
	if n := len(slices.DeleteFunc(slices.Clone(argv), func(w string) bool { return w != "-t" })); n != 2 {
		t.Errorf("-t is there %d times", n)
	}
}

// TestSSHConfig: what a user's ssh_config says of all hosts gives a guest nothing, as the
// host's ssh reads both, and what he says himself is done.
func TestSSHConfig(t *testing.T) {
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("this host has no ssh")
	}
	config := filepath.Join(t.TempDir(), "config")
	text := "Host *\n ForwardAgent yes\n ForwardX11 yes\n ProxyJump other\n ProxyCommand false\n HostKeyAlias other\n StrictHostKeyChecking no\n" +
		" UserKnownHostsFile /dev/null\n ControlMaster auto\n ControlPath /tmp/%r@%h\n PermitLocalCommand yes\n User other\n LocalForward 1234 localhost:1\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := session{program: "/bin/sandboxd", socket: "/s", key: types.NamespacedName{Namespace: "team", Name: "web"}, host: "uid", known: "/known", user: "root", port: 22}
	read := func() string {
		argv := append([]string{"-G", "-F", config}, sshCommand(s)[1:]...)
		out, err := exec.Command(ssh, argv...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v: %s", argv, err, out)
		}
		return "\n" + string(out)
	}
	got := read()
	for _, line := range []string{
		"forwardagent no", "forwardx11 no", "hostkeyalias uid", "stricthostkeychecking accept-new", "userknownhostsfile /known", "controlmaster false",
		"permitlocalcommand no", "user root", "clearallforwardings yes", "proxycommand /bin/sandboxd port-forward --stdio --socket /s --namespace team -- web 22",
	} {
		if !strings.Contains(got, "\n"+line+"\n") {
			t.Errorf("ssh has no %q, but%s", line, got)
		}
	}
	for _, word := range []string{"proxyjump", "localforward", "controlpath /tmp"} {
		if strings.Contains(got, "\n"+word) {
			t.Errorf("ssh has %q:%s", word, got)
		}
	}
	s.options = []string{"ForwardAgent=yes", "HostKeyAlias=other", "ProxyCommand=false"}
	if got := read(); !strings.Contains(got, "\nforwardagent yes\n") || !strings.Contains(got, "\nhostkeyalias uid\n") || strings.Contains(got, "proxycommand false") {
		t.Errorf("of what the user says, ssh has%s", got)
	}
}

// TestShellCommand: shells and ssh give back the words, whatever is in them.
func TestShellCommand(t *testing.T) {
	dir := filepath.Join(t.TempDir(), `it's "a" $HOME\dir %h #1`)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "show")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nprintf '<%s>' \"$0\" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	words := []string{program, "", "plain", "a b", `'`, `\`, `\\'`, `"$(id)"`, "`id`", "!x", "*", "~", "{a,b}", "100%", "%h"}
	text := shellCommand(words)
	if strings.Contains(strings.ReplaceAll(text, "%%", ""), "%") {
		t.Errorf("ssh would find a sequence in %s", text)
	}
	want := "<" + strings.Join(words, "><") + ">"
	for _, shell := range []string{"sh", "bash", "dash", "zsh", "fish", "csh"} {
		path, err := exec.LookPath(shell)
		if err != nil {
			continue
		}
		out, err := exec.Command(path, "-c", "exec "+strings.ReplaceAll(text, "%%", "%")).CombinedOutput()
		if string(out) != want || err != nil {
			t.Errorf("%s: %s, %v, want %s", shell, out, err, want)
		}
	}
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		return
	}
	known := filepath.Join(dir, "known")
	out, err := exec.Command(ssh, "-G", "-F", "none", "-o", "ProxyCommand="+text, "-o", "UserKnownHostsFile="+configWord(known), "--", "host").CombinedOutput()
	if err != nil {
		t.Fatalf("ssh does not take it: %v: %s", err, out)
	}
	for _, line := range []string{"proxycommand " + text, "userknownhostsfile " + known} {
		if !strings.Contains(string(out), line+"\n") && !strings.Contains(string(out), strings.ReplaceAll(line, "%", "%%")+"\n") {
			t.Errorf("ssh has no %q: %s", line, out)
		}
	}
}

// TestHostKeyAlias: whatever may have another host key is another host.
func TestHostKeyAlias(t *testing.T) {
	started, later := metav1.Unix(1700000000, 0), metav1.Unix(1700000060, 0)
	sbx := func(uid string, discard bool, at *metav1.Time, revert *v1.RevertTo) string {
		s := &v1.Sandbox{}
		s.UID, s.Spec.DiscardOnStop, s.Status.StartedAt, s.Status.Revert = types.UID(uid), discard, at, revert
		return hostKeyAlias(s)
	}
	if sbx("a", false, &started, nil) != "a" || sbx("a", false, &later, nil) != "a" {
		t.Error("a sandbox that was started again is another host")
	}
	all := []string{
		sbx("a", false, &started, nil), sbx("b", false, &started, nil), sbx("a", true, &started, nil), sbx("a", true, &later, nil),
		sbx("a", false, nil, &v1.RevertTo{Snapshot: "golden", Request: "1"}), sbx("a", false, nil, &v1.RevertTo{Snapshot: "golden", Request: "2"}),
		sbx("a", false, nil, &v1.RevertTo{Snapshot: "golden1", Request: ""}),
	}
	for i, one := range all {
		if slices.Contains(all[i+1:], one) {
			t.Errorf("two are one host: %s", one)
		}
	}
}

// TestHasGuest: who cannot be logged in to is told so in one sentence, before ssh runs.
func TestHasGuest(t *testing.T) {
	deleted := metav1.NewTime(time.Unix(1, 0))
	for _, c := range []struct {
		power     v1.PowerState
		on, ready string
		machine   string
		deleted   *metav1.Time
		want      string
	}{
		{power: v1.PowerRunning, on: "True", machine: "m"},
		{power: v1.PowerRunning, on: "Unknown", machine: "m"},
		{power: v1.PowerStopped, on: "True", machine: "m"}, // it has not gone down yet
		{power: v1.PowerRunning, on: "True", machine: "m", deleted: &deleted, want: "sandbox default/web is being deleted"},
		{power: v1.PowerStopped, on: "False", machine: "m", want: "sandbox default/web is stopped: start it with 'sandboxd start web -n default'"},
		{power: v1.PowerSuspended, on: "False", machine: "m", want: "sandbox default/web is suspended: 'sandboxd resume web -n default' lets it go on"},
		{power: v1.PowerRunning, want: "sandbox default/web is not running: 'sandboxd wait sandbox/web -n default --for=condition=Ready' waits until it is"},
		{power: v1.PowerRunning, on: "False", machine: "m", ready: "The image is\x1b[2J imported.", want: "sandbox default/web is not running (The image is [2J imported): 'sandboxd wait sandbox/web -n default --for=condition=Ready' waits until it is"},
	} {
		s := &v1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", DeletionTimestamp: c.deleted}}
		s.Spec.PowerState, s.Status.MachineID = c.power, c.machine
		if c.on != "" {
			s.Status.Conditions = append(s.Status.Conditions, metav1.Condition{Type: v1.ConditionPoweredOn, Status: metav1.ConditionStatus(c.on)})
		}
		if c.ready != "" {
			s.Status.Conditions = append(s.Status.Conditions, metav1.Condition{Type: v1.ConditionReady, Message: c.ready})
		}
		got := ""
		if err := hasGuest(s); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

// TestKnownHosts: the file of host keys keeps its latest lines, whole.
func TestKnownHosts(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", "")
	path, err := knownHosts()
	if err != nil || filepath.Base(path) != "known_hosts" {
		t.Fatal(path, err)
	}
	line := []byte("uid ssh-ed25519 key\n")
	many := append(bytes.Repeat(line, maxKnownHosts/len(line)+1), "last ssh-ed25519 key\n"...)
	if err := os.WriteFile(path, many, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := knownHosts(); err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(path)
	if err != nil || len(kept) > maxKnownHosts/2 || len(kept) < maxKnownHosts/2-len(line) || !bytes.HasPrefix(kept, line) || !bytes.HasSuffix(kept, []byte("\nlast ssh-ed25519 key\n")) {
		t.Errorf("%d bytes are kept, %v", len(kept), err)
	}
	for most, want := range map[int]string{100: "a\nbb\n", 5: "a\nbb\n", 4: "bb\n", 3: "bb\n", 2: "", 0: ""} {
		if got := latestLines([]byte("a\nbb\n"), most); string(got) != want {
			t.Errorf("%d bytes: %q, want %q", most, got, want)
		}
	}
	t.Setenv("XDG_CONFIG_HOME", "/tmp/${HOME}")
	if _, err := knownHosts(); err == nil {
		t.Error("a path that ssh takes for another is used")
	}
}
