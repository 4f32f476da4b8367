package virtualbox_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/providers"
)

// killSVC kills VBoxSVC and waits until another one answers.
func killSVC(t testing.TB) {
	t.Helper()
	end(t, pids("VBoxSVC"))
	eventually(t, "VBoxSVC answers again", func() bool {
		return tryManage("list", "vms") == nil
	})
}

// TestLostVBoxSVC kills VBoxSVC in the middle of cloning a machine, of starting,
// stopping and removing one, and while one runs. The call says that VirtualBox
// is not available, what the caller does next converges, and the image is as
// good as before.
func TestLostVBoxSVC(t *testing.T) {
	noted := noteCalls(t)
	l := newLab(t)
	ctx := context.Background()
	killDuring := func(command string, after time.Duration, call func() error) {
		t.Helper()
		killDuring(t, noted, command, after, call)
	}
	for _, after := range []time.Duration{50 * time.Millisecond, 250 * time.Millisecond} {
		spec := l.spec("machine")
		t.Cleanup(func() { remove(t, l.p, spec.ID) })
		killDuring("clonevm", after, func() error { return l.p.Provider.EnsureMachine(ctx, spec) })
		l.converges(t, "it is made", func() error { return l.p.EnsureMachine(ctx, spec) })
		killDuring("startvm", after, func() error { return l.p.Provider.Start(ctx, spec.ID) })
		l.converges(t, "it runs", func() error { return l.run(ctx, spec) })
		if m := l.get(t, spec.ID); m.Power != providers.PowerRunning || !m.Network.Isolated {
			t.Errorf("it is %+v", m)
		}
		killDuring("controlvm", after, func() error { return l.p.Provider.Stop(ctx, spec.ID, providers.StopForce) })
		l.converges(t, "it is off", func() error { return l.p.Stop(ctx, spec.ID, providers.StopForce) })
		killDuring("unregistervm", after, func() error { return l.p.Provider.DeleteMachine(ctx, spec.ID) })
		l.converges(t, "it is gone", func() error {
			err := l.p.DeleteMachine(ctx, spec.ID)
			switch {
			case errors.Is(err, providers.ErrNotFound):
				return nil
			case err == nil:
				return errors.New("it may not be gone yet")
			}
			return err
		})
	}
	spec := l.spec("running")
	id := l.made(t, spec)
	must(t, l.run(ctx, spec))
	end(t, pids("VBoxSVC"))
	eventually(t, "the machine is seen to have crashed", func() bool {
		m, err := l.p.GetMachine(ctx, id)
		return err == nil && m.Power == providers.PowerOff && m.OffReason == providers.OffCrashed
	})
	must(t, l.p.Start(ctx, id))
	if _, err := l.p.GetImage(ctx, l.image); err != nil {
		t.Errorf("the golden image: %v", err)
	}
	other := l.made(t, l.spec("other"))
	must(t, l.p.Start(ctx, other))
	if m := l.get(t, other); m.Power != providers.PowerRunning {
		t.Errorf("a new machine of the image is %+v", m)
	}
}

// noteCalls puts a program in VBoxManage's place that notes its first arguments, and
// tells in how many calls a word was among them: however short they are, none is missed.
func noteCalls(t testing.TB) (noted func(word string) int) {
	t.Helper()
	dir := t.TempDir()
	path, log := filepath.Join(dir, "VBoxManage"), filepath.Join(dir, "log")
	script := fmt.Sprintf("#!/bin/sh\necho \" $1 ${2-} ${3-} \" >>%q\nexec %q \"$@\"\n", log, os.Getenv("VBOX_MANAGE_PATH"))
	must(t, os.WriteFile(path, []byte(script), 0o755))
	must(t, os.WriteFile(log, nil, 0o600))
	t.Setenv("VBOX_MANAGE_PATH", path)
	return func(word string) int {
		lines, err := os.ReadFile(log)
		must(t, err)
		return strings.Count(string(lines), " "+word+" ")
	}
}

// killDuring kills VBoxSVC so long after a call has started VBoxManage for a
// command.
func killDuring(t testing.TB, noted func(string) int, command string, after time.Duration, call func() error) {
	t.Helper()
	err := during(t, noted, command, after, call, func() { end(t, pids("VBoxSVC")) }) // which may be about to begin
	if err != nil && !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("without VBoxSVC, in %s: %v", command, err)
	}
}

// during does something so long after a call has started VBoxManage for a
// command, and returns what came of the call.
func during(t testing.TB, noted func(string) int, command string, after time.Duration, call func() error, do func()) error {
	t.Helper()
	done := make(chan error, 1)
	before := noted(command)
	go func() { done <- call() }()
	for len(pids("VBoxManage", command)) == 0 {
		if len(done) > 0 { // it was quick
			if noted(command) == before {
				t.Fatalf("VBoxManage %s was not called: %v", command, <-done)
			}
			break
		}
		time.Sleep(time.Millisecond)
	}
	time.Sleep(after)
	there := len(pids("VBoxManage", command)) > 0
	do()
	err := <-done
	t.Logf("%v after %s had begun, which was there still: %v; %v", after, command, there, err)
	return err
}

// converges repeats a call as its caller does.
func (l *lab) converges(t testing.TB, what string, call func() error) {
	t.Helper()
	var err error
	deadline := time.Now().Add(limit)
	for tries := 1; ; tries++ {
		if err = call(); err == nil {
			t.Logf("%s with call %d", what, tries)
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestRestartMidway: a daemon dies while its VBoxManage is at work, which goes on
// without it. The next daemon comes at once, and converges.
func TestRestartMidway(t *testing.T) {
	noted := noteCalls(t)
	l := newLab(t)
	ctx := context.Background()
	spec := l.spec("machine")
	t.Cleanup(func() { remove(t, l.p, spec.ID) })
	gone := func(p providers.Provider) error {
		err := p.DeleteMachine(ctx, spec.ID)
		switch {
		case errors.Is(err, providers.ErrNotFound):
			return nil
		case err == nil:
			return errors.New("it may not be gone yet")
		}
		return err
	}
	for _, step := range []struct {
		command string
		call    func(context.Context, providers.Provider) error
		then    func(p providers.Provider) error
	}{
		{
			"clonevm",
			func(ctx context.Context, p providers.Provider) error { return p.EnsureMachine(ctx, spec) },
			func(p providers.Provider) error { return p.EnsureMachine(ctx, spec) },
		},
		{
			"startvm",
			func(ctx context.Context, p providers.Provider) error { return p.Start(ctx, spec.ID) },
			func(p providers.Provider) error { return p.Start(ctx, spec.ID) },
		},
		{
			"savestate",
			func(ctx context.Context, p providers.Provider) error { return p.Suspend(ctx, spec.ID) },
			func(p providers.Provider) error { return p.Start(ctx, spec.ID) },
		},
		{
			"poweroff",
			func(ctx context.Context, p providers.Provider) error {
				return p.Stop(ctx, spec.ID, providers.StopForce)
			},
			func(p providers.Provider) error { return p.Stop(ctx, spec.ID, providers.StopForce) },
		},
		{
			"unregistervm",
			func(ctx context.Context, p providers.Provider) error { return p.DeleteMachine(ctx, spec.ID) },
			gone,
		},
	} {
		dying := l.open(t, "lab")
		call, die := context.WithCancel(ctx)
		_ = during(t, noted, step.command, 0, func() error { return step.call(call, dying) }, die)
		// Its VBoxManage is still there.
		l.converges(t, "after "+step.command, func() error { return step.then(l.p) })
		must(t, dying.Close())
		l.converges(t, "once "+step.command+" is over", func() error { return step.then(l.p) })
	}
}
