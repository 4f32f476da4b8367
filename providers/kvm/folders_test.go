//go:build linux

package kvm_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// TestFolderSwappedBeforeStart: a machine whose folder somebody has exchanged for a
// symbolic link since it was made does not start.
func TestFolderSwappedBeforeStart(t *testing.T) {
	l, ctx := newLab(t), context.Background()
	dir := l.folder(t)
	inside := filepath.Join(dir, "work")
	must(t, os.Mkdir(inside, 0o777))
	must(t, os.Chmod(inside, 0o777))
	spec := l.spec("machine", v1.Network{Mode: v1.NetworkNone})
	spec.SharedFolders = []v1.SharedFolder{{Name: "in", HostPath: inside}}
	must(t, l.p.EnsureMachine(ctx, spec))
	t.Cleanup(func() { remove(t, l.p, spec.ID) })
	must(t, os.Remove(inside))
	must(t, os.Symlink("/etc", inside))
	if err := l.p.Start(ctx, spec.ID); !errors.Is(err, providers.ErrInvalid) || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("got %v", err)
	}
	if m := l.get(t, spec.ID); m.Power != providers.PowerOff {
		t.Errorf("the machine is %s", m.Power)
	}
	must(t, os.Remove(inside))
	must(t, os.Mkdir(inside, 0o777))
	must(t, os.Chmod(inside, 0o777))
	must(t, l.p.Start(ctx, spec.ID))
	must(t, os.Rename(inside, inside+".away"))
	if _, err := l.p.TakeSnapshot(ctx, snapshotOf(spec.ID, false)); !errors.Is(err, providers.ErrInvalid) {
		t.Errorf("a snapshot after which it could not go on: %v", err)
	}
	if m := l.get(t, spec.ID); m.Power != providers.PowerRunning {
		t.Errorf("after a snapshot that was refused the machine is %s", m.Power)
	}
}
