package virtualbox_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// TestInherited: what an adopted machine has and a sandbox must not have, its clones
// do not have: network cards beyond the usual, media in its drives, changes to
// VirtualBox's insides. A disk that cannot be cloned is refused.
func TestInherited(t *testing.T) {
	l := newLab(t)
	dir, golden := t.TempDir(), string(newID())
	manage(t, "createvm", "--name", "inherited", "--uuid", golden, "--basefolder", dir, "--register")
	iso, floppy := filepath.Join(dir, "a.iso"), filepath.Join(dir, "a.img")
	must(t, os.WriteFile(iso, make([]byte, 1<<20), 0o600))
	must(t, os.WriteFile(floppy, make([]byte, 1440<<10), 0o600))
	t.Cleanup(func() {
		_ = tryManage("snapshot", golden, "delete", "shared") // VirtualBox would delete its disk twice
		manage(t, "unregistervm", golden, "--delete")
		_ = tryManage("closemedium", "dvd", iso)
		_ = tryManage("closemedium", "floppy", floppy)
	})
	disk := func(name string) string {
		path := filepath.Join(dir, name)
		run(t, "qemu-img", "convert", "-O", "vdi", haltDisk(t).Path, path)
		return path
	}
	manage(t, "modifyvm", golden, "--memory", "32", "--chipset", "ich9")
	manage(t, "modifyvm", golden, "--nic9", "nat", "--nic36", "nat")
	manage(t, "storagectl", golden, "--name", "Floppy", "--add", "floppy")
	manage(t, "storagectl", golden, "--name", "IDE", "--add", "ide")
	manage(t, "storageattach", golden, "--storagectl", "IDE", "--port", "0", "--device", "0", "--type", "hdd", "--medium", disk("a.vdi"))
	manage(t, "storageattach", golden, "--storagectl", "IDE", "--port", "1", "--device", "0", "--type", "dvddrive", "--medium", iso)
	manage(t, "storageattach", golden, "--storagectl", "Floppy", "--port", "0", "--device", "0", "--type", "fdd", "--medium", floppy)
	manage(t, "setextradata", golden, "VBoxInternal2/SharedFoldersEnableSymlinksCreate/out", "1")
	manage(t, "setextradata", golden, "GUI/LastCloseAction", "PowerOff")
	manage(t, "snapshot", golden, "take", "clean")

	spec := l.spec("clone")
	spec.Image = l.imported(t, v1.ImageSource{Machine: &v1.MachineSource{Name: golden, Snapshot: "clean"}})
	spec.SharedFolders = []v1.SharedFolder{{Name: "out", HostPath: t.TempDir(), ReadOnly: new(bool)}}
	id := l.made(t, spec)
	shown := manage(t, "showvminfo", string(id), "--machinereadable")
	for _, inherited := range []string{`="nat"`, iso, floppy} {
		if strings.Contains(shown, inherited) {
			t.Errorf("the clone has %s", inherited)
		}
	}
	if extra := manage(t, "getextradata", string(id), "enumerate"); strings.Contains(extra, "VBoxInternal") || !strings.Contains(extra, "GUI/LastCloseAction") {
		t.Errorf("the clone's extra data are %s", extra)
	}
	must(t, l.p.Start(t.Context(), id))
	if m := l.get(t, id); m.Power != providers.PowerRunning || !m.Network.Isolated {
		t.Errorf("it is %+v", m)
	}
	must(t, l.p.Stop(t.Context(), id, providers.StopForce))
	for name, args := range map[string][]string{
		"card":       {"modifyvm", string(id), "--nic36", "nat"},
		"floppy":     {"storageattach", string(id), "--storagectl", "Floppy", "--port", "0", "--device", "0", "--type", "fdd", "--medium", floppy},
		"extra data": {"setextradata", string(id), "VBoxInternal/Devices/x", "y"},
	} {
		eventually(t, "it can be changed", func() bool { return tryManage(args...) == nil })
		if err := l.p.Start(t.Context(), id); !errors.Is(err, providers.ErrUnavailable) {
			t.Errorf("%s: given back by somebody, it starts: %v", name, err)
		}
		if m := l.get(t, id); m.Power != providers.PowerOff || m.Hashes == spec.Hashes() {
			t.Errorf("%s: it is taken for as it should be: %+v", name, m)
		}
		must(t, l.run(t.Context(), spec))
		if m := l.get(t, id); m.Power != providers.PowerRunning || !m.Network.Isolated || m.Hashes != spec.Hashes() {
			t.Errorf("%s: ensured and started, it is %+v", name, m)
		}
		must(t, l.p.Stop(t.Context(), id, providers.StopForce))
	}

	manage(t, "storageattach", golden, "--storagectl", "IDE", "--port", "1", "--device", "1", "--type", "hdd", "--medium", disk("b.vdi"), "--mtype", "writethrough")
	manage(t, "snapshot", golden, "take", "shared")
	shared := l.spec("shared")
	shared.Image = l.imported(t, v1.ImageSource{Machine: &v1.MachineSource{Name: golden, Snapshot: "shared"}})
	t.Cleanup(func() { remove(t, l.p, shared.ID) })
	if err := l.p.EnsureMachine(t.Context(), shared); !errors.Is(err, providers.ErrInvalid) || !strings.Contains(err.Error(), "b.vdi") {
		t.Errorf("a disk that the clone would share: %v", err)
	}
}

// TestWritableByHand: a folder that is read-only and that somebody makes writable is
// seen, before the machine starts and while it runs.
func TestWritableByHand(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	spec := l.spec("machine")
	spec.SharedFolders = []v1.SharedFolder{{Name: "in", HostPath: dir}}
	id := l.made(t, spec)
	manage(t, "sharedfolder", "remove", string(id), "--name", "in")
	manage(t, "sharedfolder", "add", string(id), "--name", "in", "--hostpath", dir)
	if err := l.p.Start(t.Context(), id); !errors.Is(err, providers.ErrUnavailable) || !strings.Contains(err.Error(), `"in"`) {
		t.Errorf("it starts: %v", err)
	}
	if m := l.get(t, id); m.OffReason != providers.OffNeverStarted || m.Hashes == spec.Hashes() {
		t.Errorf("it is %+v", m)
	}
	must(t, l.run(t.Context(), spec))
	if m := l.get(t, id); m.Power != providers.PowerRunning || !m.Network.Isolated {
		t.Errorf("ensured and started, it is %+v", m)
	}
	if tryManage("sharedfolder", "add", string(id), "--name", "in", "--hostpath", dir, "--transient") == nil {
		if m := l.get(t, id); m.Network.Isolated {
			t.Errorf("with a writable folder of that name for a while, it is %+v", m)
		}
	}
}
