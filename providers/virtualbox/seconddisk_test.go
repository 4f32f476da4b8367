package virtualbox_test

import (
	"errors"
	"path/filepath"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// TestSecondDisk: of a machine with two disks, the second one is missed when it is
// taken out, and is kept.
func TestSecondDisk(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	dir, golden := t.TempDir(), string(newID())
	manage(t, "createvm", "--name", "two", "--uuid", golden, "--basefolder", dir, "--register")
	t.Cleanup(func() { manage(t, "unregistervm", golden, "--delete") })
	first, second := filepath.Join(dir, "first.vdi"), filepath.Join(dir, "second.vdi")
	run(t, "qemu-img", "convert", "-O", "vdi", haltDisk(t).Path, first)
	run(t, "qemu-img", "create", "-f", "vdi", second, "1M")
	manage(t, "storagectl", golden, "--name", "SATA", "--add", "sata", "--portcount", "4")
	for port, path := range map[string]string{"0": first, "2": second} {
		manage(t, "storageattach", golden, "--storagectl", "SATA", "--port", port, "--device", "0", "--type", "hdd", "--medium", path)
	}
	manage(t, "modifyvm", golden, "--memory", "32")
	spec := l.spec("clone")
	spec.Image = l.imported(t, v1.ImageSource{Machine: &v1.MachineSource{Name: golden, Snapshot: "clean"}})
	id := l.made(t, spec)
	l.wantNone(t, "made", spec, providers.PowerOff)

	own := shown(t, id, "SATA-2-0")
	asSomebody(t, "storageattach", string(id), "--storagectl", "SATA", "--port", "2", "--device", "0", "--medium", "none")
	l.wantDrift(t, id, "taken out", v1.ReasonDiskChanged, providers.RemedyNone, "1 of its 2 disks")
	for name, do := range map[string]func() error{
		"ensure": func() error { return l.p.EnsureMachine(ctx, spec) },
		"start":  func() error { return l.p.Start(ctx, id) },
		"reset":  func() error { return l.p.Reset(ctx, id) },
	} {
		if err := do(); !errors.Is(err, providers.ErrInvalid) || providers.ReasonOf(err) != v1.ReasonDiskChanged {
			t.Errorf("%s: %v", name, err)
		}
	}
	asSomebody(t, "storageattach", string(id), "--storagectl", "SATA", "--port", "2", "--device", "0", "--type", "hdd", "--medium", own)
	l.wantNone(t, "attached again", spec, providers.PowerOff)
	must(t, l.run(ctx, spec))
	must(t, l.p.Stop(ctx, id, providers.StopForce))
	must(t, l.p.Reset(ctx, id))
	l.wantNone(t, "reset", spec, providers.PowerOff)
	if now := shown(t, id, "SATA-2-0"); now == own || now == "none" {
		t.Errorf("its second disk is %s, and was %s", now, own)
	}
}
