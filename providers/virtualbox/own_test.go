package virtualbox_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// TestAdoptOwn: no machine that sandboxd made becomes an image, be it a sandbox's
// or an image's, of this instance or another.
func TestAdoptOwn(t *testing.T) {
	l := newLab(t)
	id := l.made(t, l.spec("machine"))
	before := manage(t, "list", "--long", "vms")
	other := l.open(t, "other")
	defer func() { must(t, other.Close()) }()
	names := []string{string(id)}
	for line := range strings.Lines(manage(t, "list", "vms")) {
		names = append(names, strings.Split(line, `"`)[1])
	}
	if len(names) != 3 {
		t.Fatalf("the machines are %q", names)
	}
	for _, p := range []providers.Provider{l.p, other} {
		for _, name := range names {
			spec := providers.ImageSpec{
				ImageRef: providers.ImageRef{UID: newID(), Revision: "1"}, Name: "own",
				Source: v1.ImageSource{Machine: &v1.MachineSource{Name: name, Snapshot: "mine"}},
			}
			if err := p.CheckSource(t.Context(), spec); !errors.Is(err, providers.ErrInvalid) {
				t.Errorf("%s is a good source: %v", name, err)
			}
			if _, err := p.ImportImage(t.Context(), spec, nil); !errors.Is(err, providers.ErrInvalid) {
				t.Errorf("%s is adopted: %v", name, err)
			}
		}
	}
	if after := manage(t, "list", "--long", "vms"); after != before {
		t.Errorf("the machines were\n%s\nand are now\n%s", before, after)
	}
}

// disks lists the disk files of a machine.
func (l *lab) disks(t testing.TB, id types.UID) []string {
	t.Helper()
	var found []string
	must(t, filepath.WalkDir(filepath.Join(l.root, "data-lab", "machines", string(id)), func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".vdi" {
			found = append(found, path)
		}
		return err
	}))
	return found
}

// TestSnapshotsByOthers: a machine that somebody has taken a snapshot of, and
// cloned, keeps what the clone needs until that is gone.
func TestSnapshotsByOthers(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	for name, half := range map[string]bool{"registered": false, "half removed by others": true} {
		spec := l.spec("machine")
		id := l.made(t, spec)
		must(t, l.p.Start(ctx, id))
		must(t, l.p.Stop(ctx, id, providers.StopForce))
		asSomebody(t, "snapshot", string(id), "take", "mine")
		clone := string(newID())
		manage(t, "clonevm", string(id), "--name", "mine", "--uuid", clone, "--snapshot", "mine", "--options", "link", "--basefolder", t.TempDir(), "--register")
		were := l.disks(t, id)
		if len(were) != 2 {
			t.Fatalf("%s: the disks are %q", name, were)
		}
		must(t, l.p.Reset(ctx, id))
		if now := l.disks(t, id); len(now) != 2 || !slices.ContainsFunc(were, func(path string) bool { return slices.Contains(now, path) }) {
			t.Errorf("%s: after a reset the disks are %q, and were %q", name, now, were)
		}
		were = l.disks(t, id)
		if half {
			if tryManage("unregistervm", string(id), "--delete-all") == nil {
				t.Fatal("VirtualBox removes a machine that others depend on")
			}
			were = slices.DeleteFunc(were, func(path string) bool { return !slices.Contains(l.disks(t, id), path) })
		}
		if len(were) == 0 {
			t.Fatalf("%s: the disk under the clone is gone", name)
		}
		for range 2 {
			if err := l.p.DeleteMachine(ctx, id); !errors.Is(err, providers.ErrBusy) {
				t.Errorf("%s: a machine on whose disks somebody's lie is deleted: %v", name, err)
			}
		}
		if now := l.disks(t, id); !slices.Equal(now, were) {
			t.Errorf("%s: the disks were %q and are now %q", name, were, now)
		}
		if there := strings.Contains(manage(t, "list", "vms"), string(id)); there == half {
			t.Errorf("%s: VirtualBox has the machine: %v", name, there)
		}
		killSVC(t) // which then reads everything from the files
		if out := manage(t, "showvminfo", clone, "--machinereadable"); !strings.Contains(out, `VMState="poweroff"`) {
			t.Errorf("%s: the clone is %s", name, out)
		}
		manage(t, "unregistervm", clone, "--delete")
		if !half {
			must(t, l.p.Start(ctx, id))
			must(t, l.p.Stop(ctx, id, providers.StopForce))
			must(t, l.p.Reset(ctx, id))
			asSomebody(t, "snapshot", string(id), "restore", "mine")
			must(t, l.p.Start(ctx, id))
		}
		remove(t, l.p, id)
	}
}

// TestKeptDiskCutOff: the disk of a machine that somebody has unregistered is put
// into the machine that is made in its place, wherever the making is cut off.
func TestKeptDiskCutOff(t *testing.T) {
	if testing.Short() {
		t.Skip("cutting a call off at each of its steps takes minutes")
	}
	l := newLab(t)
	spec := l.spec("machine")
	id := l.made(t, spec)
	were := l.disks(t, id)
	if len(were) != 1 {
		t.Fatalf("the disks are %q", were)
	}
	before, err := os.ReadFile(were[0])
	must(t, err)
	steps := 1
	for ; ; steps++ {
		manage(t, "unregistervm", string(id))
		var err error
		done := interrupt(l.p.Provider, steps, func() { err = l.p.EnsureMachine(t.Context(), spec) })
		if must(t, err); done {
			break
		}
		must(t, l.p.EnsureMachine(t.Context(), spec))
		after, err := os.ReadFile(were[0])
		must(t, err)
		if !bytes.Equal(before, after) {
			t.Fatalf("cut off at step %d: the disk is another", steps)
		}
		if out := manage(t, "showvminfo", string(id), "--machinereadable"); !strings.Contains(out, `"`+were[0]+`"`) {
			t.Fatalf("cut off at step %d: the disk %s is not in\n%s", steps, were[0], out)
		}
	}
	if steps < 5 {
		t.Errorf("it was cut off at %d steps only", steps)
	}
	remove(t, l.p, id)
}
