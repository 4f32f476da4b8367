package virtualbox_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// serial is where VirtualBox says that a machine's serial port goes.
func serial(t *testing.T, id types.UID) string {
	t.Helper()
	for line := range strings.Lines(manage(t, "showvminfo", string(id), "--machinereadable")) {
		if mode, ok := strings.CutPrefix(strings.TrimSpace(line), "uartmode1="); ok {
			return strings.Trim(mode, `"`)
		}
	}
	t.Fatalf("machine %s has no serial port", id)
	return ""
}

// awaitSerial waits until it goes there.
func awaitSerial(t *testing.T, id types.UID, mode string) {
	t.Helper()
	for end := time.Now().Add(limit); serial(t, id) != mode; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the serial port goes to %s, not %s", serial(t, id), mode)
		}
	}
}

// TestTyping: a serial port goes to its log, and to a socket while somebody types, alone
// or in company; nobody takes that for a change of others; and whatever ends in between,
// it goes to its log again.
func TestTyping(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	spec := l.spec("machine")
	id := l.made(t, spec)
	toLog := serial(t, id)
	if _, err := l.p.TypeAtConsole(ctx, id); !errors.Is(err, providers.ErrBusy) {
		t.Errorf("typing at a machine that is off: %v", err)
	}
	if _, err := l.p.TypeAtConsole(ctx, newID()); !errors.Is(err, providers.ErrNotFound) {
		t.Errorf("typing at no machine: %v", err)
	}
	must(t, l.p.Start(ctx, id))
	one, err := l.p.TypeAtConsole(ctx, id)
	must(t, err)
	held, cancel := context.WithCancel(ctx)
	two, err := l.p.TypeAtConsole(held, id)
	must(t, err)
	toKeys := serial(t, id)
	tty, isSocket := strings.CutPrefix(toKeys, "server,")
	if !isSocket || strings.Contains(tty, "/machines/") {
		t.Errorf("while somebody types, the serial port goes to %s", toKeys)
	}
	if info, err := os.Stat(filepath.Dir(tty)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder of the socket is open: %v, %v", info, err)
	}
	l.wantNone(t, "while somebody types", spec, providers.PowerRunning)
	_, err = io.WriteString(one, "nobody reads that\n")
	must(t, err)

	cancel()
	if _, err := io.WriteString(two, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("typing ends with its context by %v", err)
	}
	if got := serial(t, id); got != toKeys {
		t.Errorf("when one of them has gone, the serial port goes to %s", got)
	}
	must(t, one.Close())
	awaitSerial(t, id, toLog)
	l.wantNone(t, "when they have gone", spec, providers.PowerRunning)

	// Powered off and saved under somebody who types, who can go on once it runs again.
	again, err := l.p.TypeAtConsole(ctx, id)
	must(t, err)
	for what, end := range map[string]func() error{
		"powered off": func() error { return l.p.Stop(ctx, id, providers.StopForce) },
		"saved":       func() error { return l.p.Suspend(ctx, id) },
		"snapshot": func() error {
			ref := providers.SnapshotRef{Machine: id, ID: newID()}
			if _, err := l.p.TakeSnapshot(ctx, providers.SnapshotSpec{SnapshotRef: ref, Namespace: "default", Name: "one"}); err != nil {
				return err
			}
			must(t, l.p.Stop(ctx, id, providers.StopForce))
			must(t, l.p.RevertMachine(ctx, ref))
			return l.p.DeleteSnapshot(ctx, ref)
		},
	} {
		must(t, end())
		must(t, l.p.Start(ctx, id))
		if got := serial(t, id); got != toLog && got != toKeys {
			t.Errorf("%s: the serial port goes to %s", what, got)
		}
		l.wantNone(t, what, spec, providers.PowerRunning)
		eventuallyTypes(t, again, what)
		awaitSerial(t, id, toKeys)
	}
	must(t, again.Close())
	awaitSerial(t, id, toLog)
	if _, err := os.Lstat(tty); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// eventuallyTypes types until it is taken.
func eventuallyTypes(t *testing.T, keys io.Writer, what string) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		_, err := io.WriteString(keys, "x")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: typing goes on with %v", what, err)
		}
	}
}

// TestTypingWasCutOff: the serial port of a machine at which somebody typed when sandboxd
// was killed goes to its log again, by the next sandboxd that looks, and with the next
// start. What the log had is there, and that something may be missing.
func TestTypingWasCutOff(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	spec := l.spec("machine")
	spec.Network = v1.Network{Mode: v1.NetworkNone}
	id := l.made(t, spec)
	must(t, l.p.Start(ctx, id))
	toLog := serial(t, id)
	log := strings.TrimPrefix(toLog, "file,")
	must(t, os.WriteFile(log, []byte("said before\n"), 0o600))
	keys, err := l.p.TypeAtConsole(ctx, id)
	must(t, err)
	tty, _ := strings.CutPrefix(serial(t, id), "server,")
	must(t, keys.Close())
	awaitSerial(t, id, toLog)
	cut := func() { // as a process does that was killed after it told VirtualBox
		t.Helper()
		manage(t, "controlvm", string(id), "changeuartmode1", "server", tty)
	}
	said := func(when string) {
		t.Helper()
		r, err := l.p.Console(ctx, id, providers.ConsoleOptions{TailBytes: -1})
		must(t, err)
		defer func() { _ = r.Close() }()
		if b, err := io.ReadAll(r); err != nil || !strings.Contains(string(b), "said before\n") || !strings.Contains(string(b), "is missing]") {
			t.Errorf("%s: the log is %q, %v", when, b, err)
		}
	}
	cut()
	l.wantNone(t, "cut off", spec, providers.PowerRunning)
	looking, stop := context.WithCancel(ctx)
	events := l.p.Events(looking)
	awaitSerial(t, id, toLog)
	stop()
	for range events { //nolint:revive // waits for the end
	}
	said("put back")

	cut()
	must(t, l.p.Stop(ctx, id, providers.StopForce))
	must(t, l.p.Start(ctx, id))
	if got := serial(t, id); got != toLog {
		t.Errorf("started anew: the serial port goes to %s", got)
	}
	said("started anew")

	cut()
	must(t, l.p.Suspend(ctx, id))
	must(t, l.p.Start(ctx, id))
	if got := serial(t, id); got != toLog {
		t.Errorf("gone on: the serial port goes to %s", got)
	}

	cut()
	keys, err = l.p.TypeAtConsole(ctx, id)
	must(t, err)
	eventuallyTypes(t, keys, "of an earlier process")
	must(t, keys.Close())
	awaitSerial(t, id, toLog)
	said("typed again")
}
