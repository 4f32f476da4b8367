//go:build linux

package kvm_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// consoleOf is what the log of a machine's console has.
func (l *lab) consoleOf(t *testing.T, id types.UID) string {
	t.Helper()
	r, err := l.p.Console(t.Context(), id, providers.ConsoleOptions{TailBytes: -1})
	must(t, err)
	defer func() { _ = r.Close() }()
	b, err := io.ReadAll(r)
	must(t, err)
	return string(b)
}

// asks types a command at a console until its answer is in the log: what is typed
// before anybody listens is lost.
func (l *lab) asks(t *testing.T, id types.UID, keys io.Writer, word string) {
	t.Helper()
	for end := time.Now().Add(bootLimit); time.Now().Before(end); time.Sleep(time.Second) {
		_, err := io.WriteString(keys, "echo answer-"+word+"''-end\n")
		must(t, err)
		if strings.Contains(l.consoleOf(t, id), "answer-"+word+"-end") {
			return
		}
	}
	t.Fatalf("no answer to %q in the log: %q", word, l.consoleOf(t, id))
}

// fileSerial makes the serial console of a definition the file that it was before it
// could be typed at.
func fileSerial(t *testing.T, id types.UID, log string) {
	t.Helper()
	text := run(t, "virsh", "dumpxml", "--inactive", string(id))
	kept := "<log file='" + log + "' append='on'/>"
	if strings.Count(text, kept) != 2 {
		t.Fatalf("the definition has no log: %s", text)
	}
	for _, what := range []string{"serial", "console"} {
		text = strings.Replace(text, "<"+what+" type='pty'>", "<"+what+" type='file'><source path='"+log+"' append='on'/>", 1)
	}
	cmd := exec.Command("virsh", "define", "/dev/stdin")
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(text, kept, ""))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestConsoleOfAnEarlierRelease: a machine that runs with the console of an earlier
// release goes on so, whatever is saved and reverted, and can be typed at from its next
// start on.
func TestConsoleOfAnEarlierRelease(t *testing.T) {
	if testing.Short() {
		t.Skip("in the brief form the definitions of earlier releases are compared only, in package domain")
	}
	l := newLab(t)
	ctx := t.Context()
	spec := l.spec("machine", v1.Network{Mode: v1.NetworkNone})
	id := spec.ID
	t.Cleanup(func() { remove(t, l.p, id) })
	must(t, l.p.EnsureMachine(ctx, spec))
	dir := filepath.Join(l.dataDir(l.instance), "machines", string(id))
	sound := func(what string) {
		t.Helper()
		m, err := l.p.GetMachine(ctx, id)
		must(t, err)
		if len(m.Drift) > 0 {
			t.Fatalf("%s: %+v", what, m.Drift)
		}
	}
	refused := func(what string) {
		t.Helper()
		sound(what)
		if _, err := l.p.TypeAtConsole(ctx, id); !errors.Is(err, providers.ErrUnsupported) || !strings.Contains(err.Error(), "until it is stopped and started") {
			t.Errorf("%s: %v", what, err)
		}
	}
	fileSerial(t, id, filepath.Join(dir, "console.log"))
	run(t, "virsh", "start", string(id)) // as an earlier release would
	l.ready(t, id)
	refused("of an earlier release")
	if boot := l.consoleOf(t, id); !strings.Contains(boot, "tiny") {
		t.Errorf("its log is %q", boot)
	}

	// Saved and restored by either way, and reverted to once the definition is new.
	snap := providers.SnapshotRef{Machine: id, ID: newID()}
	_, err := l.p.TakeSnapshot(ctx, providers.SnapshotSpec{SnapshotRef: snap, Namespace: "default", Name: "old", Memory: true})
	must(t, err)
	refused("after a snapshot")
	must(t, l.p.Suspend(ctx, id))
	must(t, l.p.Start(ctx, id))
	refused("after it was suspended")

	must(t, l.p.Stop(ctx, id, providers.StopForce))
	must(t, l.p.Start(ctx, id))
	l.ready(t, id)
	sound("started anew")
	keys := l.types(t, id)
	l.shell(t, id)
	l.asks(t, id, keys, "new")

	must(t, l.p.Suspend(ctx, id))
	if _, err := l.p.TypeAtConsole(ctx, id); !errors.Is(err, providers.ErrBusy) {
		t.Errorf("typing at a machine that is saved: %v", err)
	}
	must(t, l.p.Start(ctx, id))
	sound("suspended with a terminal")
	l.asks(t, id, keys, "suspended") // by the line that was there before

	fresh := providers.SnapshotRef{Machine: id, ID: newID()}
	_, err = l.p.TakeSnapshot(ctx, providers.SnapshotSpec{SnapshotRef: fresh, Namespace: "default", Name: "new", Memory: true})
	must(t, err)
	l.asks(t, id, keys, "snapshot")
	for _, to := range []providers.SnapshotRef{snap, fresh} {
		must(t, l.p.Stop(ctx, id, providers.StopForce))
		must(t, l.p.RevertMachine(ctx, to))
		must(t, l.p.Start(ctx, id))
		if to == snap {
			refused("reverted to a state of an earlier release")
		}
	}
	sound("reverted")
	l.asks(t, id, keys, "reverted")
	for _, ref := range []providers.SnapshotRef{fresh, snap} {
		must(t, l.p.DeleteSnapshot(ctx, ref))
	}
}

func (l *lab) types(t *testing.T, id types.UID) io.WriteCloser {
	t.Helper()
	keys, err := l.p.TypeAtConsole(t.Context(), id)
	must(t, err)
	t.Cleanup(func() { _ = keys.Close() })
	return keys
}

// shell gives the guest one on its console.
func (l *lab) shell(t *testing.T, id types.UID) {
	t.Helper()
	l.sh(t, id, "sh </dev/console >/dev/console 2>&1 &")
}

// TestConsoleTakesNoHostage: only the daemon may type, who else has the console is told
// of, typing survives a pause and libvirtd, and a guest that prints without end does not
// fill the disk.
func TestConsoleTakesNoHostage(t *testing.T) {
	if testing.Short() {
		t.Skip("in the brief form it is typed only, in the tests of conformance")
	}
	l := newLab(t)
	id := l.boot(t, "machine", v1.Network{Mode: v1.NetworkNone})
	l.ready(t, id)
	l.shell(t, id)
	keys := l.types(t, id)
	l.asks(t, id, keys, "first")

	tty := strings.TrimSpace(run(t, "virsh", "ttyconsole", string(id)))
	if info, err := os.Stat(tty); err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("everybody may type at %s: %v, %v", tty, info, err)
	}

	// Somebody else's daemon is to libvirt what virsh console is.
	other := l.open(t, l.instance)
	defer func() { must(t, other.Close()) }()
	if _, err := other.TypeAtConsole(t.Context(), id); !errors.Is(err, providers.ErrBusy) || !strings.Contains(err.Error(), "somebody else types") {
		t.Errorf("a console that another has: %v", err)
	}

	run(t, "virsh", "suspend", string(id))
	_, err := io.WriteString(keys, "true\n")
	must(t, err)
	run(t, "virsh", "resume", string(id))
	l.asks(t, id, keys, "resumed")
	l.killLibvirtd(t)
	l.startLibvirtd(t)
	l.asks(t, id, keys, "libvirtd")
	_ = keys.Close()

	l.sh(t, id, `head -c 12000000 /dev/zero | tr '\0' x >/dev/console`)
	var size int64
	logs, err := filepath.Glob(filepath.Join(l.dataDir(l.instance), "machines", string(id), "console.log*"))
	must(t, err)
	for _, path := range logs {
		info, err := os.Stat(path)
		must(t, err)
		size += info.Size()
	}
	if size < 4<<20 || size > 10<<20 {
		t.Errorf("the log has %d bytes after twelve million", size)
	}
}
