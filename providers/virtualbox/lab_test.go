package virtualbox_test

import (
	"context"
	"errors"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// lab is a host with a provider and a golden image whose machines run and do
// nothing.
type lab struct {
	*host
	p      patient
	image  providers.ImageRef
	events <-chan providers.Event // of who asked for them
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{host: newHost(t)}
	l.p = patient{l.open(t, "lab"), t}
	t.Cleanup(func() {
		must(t, l.p.Close())
		if left := l.audit(t); len(left) > 0 && !t.Failed() {
			t.Errorf("left: %q", left)
		}
	})
	l.image = l.imported(t, v1.ImageSource{Disk: ptr(haltDisk(t))})
	return l
}

func ptr[T any](v T) *T { return &v }

func (l *lab) imported(t testing.TB, source v1.ImageSource) providers.ImageRef {
	t.Helper()
	ref := providers.ImageRef{UID: newID(), Revision: "1"}
	_, err := l.p.ImportImage(context.Background(), providers.ImageSpec{ImageRef: ref, Name: "golden", Source: source}, nil)
	must(t, err)
	t.Cleanup(func() {
		if err := l.p.DeleteImage(context.Background(), ref); err != nil && !errors.Is(err, providers.ErrNotFound) {
			t.Errorf("delete image: %v", err)
		}
	})
	return ref
}

func (l *lab) spec(name string) providers.MachineSpec {
	return providers.MachineSpec{
		ID: newID(), Namespace: "default", Name: name, Image: l.image, CPUs: 1, MemoryBytes: 32 << 20,
		Network: v1.Network{Mode: v1.NetworkNone},
	}
}

// made makes a machine that goes with the test.
func (l *lab) made(t testing.TB, spec providers.MachineSpec) types.UID {
	t.Helper()
	t.Cleanup(func() { remove(t, l.p, spec.ID) })
	must(t, l.p.EnsureMachine(context.Background(), spec))
	return spec.ID
}

func (l *lab) get(t testing.TB, id types.UID) providers.Machine {
	t.Helper()
	m, err := l.p.GetMachine(context.Background(), id)
	must(t, err)
	return m
}

// run brings a machine to run as its caller does: what failed is tried again.
func (l *lab) run(ctx context.Context, spec providers.MachineSpec) error {
	var err error
	for range 3 {
		if err = l.p.EnsureMachine(ctx, spec); err == nil {
			err = l.p.Start(ctx, spec.ID)
		}
		if err == nil {
			break
		}
	}
	return err
}

// TestManyInParallel: eight linked clones of one image are made, started and
// deleted side by side, again and again, and nothing is left of them. The tests of
// a whole daemon do so ten times.
func TestManyInParallel(t *testing.T) {
	l := newLab(t)
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	before := len(l.added(t))
	for round := range rounds {
		var wg sync.WaitGroup
		for i := range 8 {
			spec := l.spec(fmt.Sprintf("clone-%d", i))
			spec.Network = v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{{Name: "ssh", GuestPort: 22}}}
			wg.Go(func() {
				ctx := context.Background()
				if err := l.run(ctx, spec); err != nil {
					t.Errorf("round %d: %v", round, err)
				} else if m, err := l.p.GetMachine(ctx, spec.ID); err != nil || m.Power != providers.PowerRunning || !m.Network.Isolated {
					t.Errorf("round %d: %+v, %v", round, m, err)
				}
				remove(t, l.p, spec.ID)
			})
		}
		wg.Wait()
		if left := l.settled(t, before); len(left) != before {
			t.Fatalf("after round %d there are %q", round, left)
		}
	}
}

// TestOddNeighbours: machines of others with names that nobody expects, one whose
// file is lost, and one that somebody has locked, disturb nothing and stay as they
// are.
func TestOddNeighbours(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	names := []string{`quotes " and ' and \`, "new\nline\" {" + string(newID()) + "}", "..", "-x", "$HOME;`id`", "heading\n[runningvms]\n"}
	for i, name := range names {
		oddMachine(t, filepath.Join(dir, strconv.Itoa(i)), name)
	}
	shown := manage(t, "list", "vms")
	for _, name := range names {
		if !strings.Contains(shown, `"`+name+`" {`) {
			t.Fatalf("no machine is called %q: %s", name, shown)
		}
	}
	lost := string(newID())
	manage(t, "createvm", "--name", "lost", "--uuid", lost, "--basefolder", dir, "--register")
	t.Cleanup(func() { manage(t, "unregistervm", lost) })
	must(t, os.Rename(filepath.Join(dir, "lost", "lost.vbox"), filepath.Join(dir, "lost", "lost.kept")))
	killSVC(t)
	t.Cleanup(func() {
		must(t, os.Rename(filepath.Join(dir, "lost", "lost.kept"), filepath.Join(dir, "lost", "lost.vbox")))
		killSVC(t)
	})
	if out := manage(t, "list", "vms"); !strings.Contains(out, "<inaccessible>") {
		t.Fatalf("no machine is inaccessible: %s", out)
	}
	locked := lockedMachine(t)
	others := manage(t, "list", "vms")
	id := l.made(t, l.spec("machine"))
	must(t, l.p.Start(t.Context(), id))
	if m := l.get(t, id); m.Power != providers.PowerRunning {
		t.Errorf("the machine is %+v", m)
	}
	resources, err := l.p.ListResources(t.Context())
	must(t, err)
	if !slices.ContainsFunc(resources, func(r providers.Resource) bool {
		return r.Kind == providers.ResourceMachine && r.ID == string(id)
	}) {
		t.Errorf("our own machine is not listed: %+v", resources)
	}
	for _, r := range resources {
		if strings.Contains(r.Description, "odd") || strings.Contains(r.Description, "lost") || strings.Contains(r.Description, "locked") {
			t.Errorf("somebody else's is listed: %+v", r)
		}
	}
	for _, theirs := range []string{lost, locked} {
		spec := l.spec("other")
		spec.ID = types.UID(theirs)
		if err := l.p.EnsureMachine(t.Context(), spec); !errors.Is(err, providers.ErrAlreadyExists) {
			t.Errorf("a UUID that somebody else's machine has: %v", err)
		}
		remove(t, l.p, spec.ID)
	}
	source := v1.ImageSource{Machine: &v1.MachineSource{Name: locked}}
	adopting := providers.ImageSpec{ImageRef: providers.ImageRef{UID: newID(), Revision: "1"}, Name: "locked", Source: source}
	if _, err := l.p.ImportImage(t.Context(), adopting, nil); !errors.Is(err, providers.ErrBusy) {
		t.Errorf("the adoption of a machine that somebody runs: %v", err)
	}
	remove(t, l.p, id)
	if out := manage(t, "showvminfo", locked, "--machinereadable"); !strings.Contains(out, `VMState="running"`) {
		t.Errorf("the locked machine is now %s", out)
	}
	if now := manage(t, "list", "vms"); now != others {
		t.Errorf("the others were\n%s\nand are now\n%s", others, now)
	}
}

// oddMachine is somebody else's machine in a folder of its own, with a name that
// VirtualBox would not take for a file's: it is given to it in its definition.
func oddMachine(t testing.TB, dir, name string) {
	t.Helper()
	id := string(newID())
	manage(t, "createvm", "--name", "odd", "--uuid", id, "--basefolder", dir)
	path := filepath.Join(dir, "odd", "odd.vbox")
	b, err := os.ReadFile(path)
	must(t, err)
	was, is := `name="odd"`, `name="`+strings.ReplaceAll(html.EscapeString(name), "\n", "&#10;")+`"`
	if strings.Count(string(b), was) != 1 {
		t.Fatalf("the definition is %s", b)
	}
	must(t, os.WriteFile(path, []byte(strings.Replace(string(b), was, is, 1)), 0o600))
	manage(t, "registervm", path)
	t.Cleanup(func() { manage(t, "unregistervm", id) })
}

// lockedMachine is somebody else's machine that runs, so that its process has
// its lock.
func lockedMachine(t testing.TB) string {
	t.Helper()
	id, dir := string(newID()), t.TempDir()
	manage(t, "createvm", "--name", "locked", "--uuid", id, "--ostype", "Linux_64", "--basefolder", dir, "--register")
	t.Cleanup(func() {
		_ = tryManage("controlvm", id, "poweroff")
		eventually(t, "the locked machine can be removed", func() bool { return tryManage("unregistervm", id, "--delete") == nil })
	})
	vdi := filepath.Join(dir, "locked.vdi")
	run(t, "qemu-img", "convert", "-O", "vdi", haltDisk(t).Path, vdi)
	manage(t, "storagectl", id, "--name", "IDE", "--add", "ide")
	manage(t, "storageattach", id, "--storagectl", "IDE", "--port", "0", "--device", "0", "--type", "hdd", "--medium", vdi)
	manage(t, "modifyvm", id, "--memory", "32", "--audio-driver", "none", "--vm-execution-engine", "interpreter")
	manage(t, "startvm", id, "--type", "headless")
	if err := tryManage("modifyvm", id, "--memory", "64"); err == nil {
		t.Fatal("the machine is not locked")
	}
	return id
}

// TestAdopt: an existing machine becomes an image with a snapshot that it has, or
// that is taken of it, and stays somebody else's.
func TestAdopt(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	dir, id := t.TempDir(), string(newID())
	manage(t, "createvm", "--name", "sandbox-golden", "--uuid", id, "--ostype", "Ubuntu_64", "--basefolder", dir, "--register")
	t.Cleanup(func() { manage(t, "unregistervm", id, "--delete") })
	vdi := filepath.Join(dir, "sandbox-golden.vdi")
	run(t, "qemu-img", "convert", "-O", "vdi", haltDisk(t).Path, vdi)
	manage(t, "storagectl", id, "--name", "IDE", "--add", "ide")
	manage(t, "storageattach", id, "--storagectl", "IDE", "--port", "0", "--device", "0", "--type", "hdd", "--medium", vdi)
	manage(t, "modifyvm", id, "--memory", "32", "--nic1", "nat", "--nat-pf1", "ssh,tcp,,2222,,22", "--clipboard-mode", "bidirectional", "--nic2", "nat")
	manage(t, "sharedfolder", "add", id, "--name", "home", "--hostpath", dir)

	source := func(name, snapshot string) v1.ImageSource {
		return v1.ImageSource{Machine: &v1.MachineSource{Name: name, Snapshot: snapshot}}
	}
	for name, tc := range map[string]struct {
		source v1.ImageSource
		kind   error
	}{
		"no such machine": {source("nobody", "clean"), providers.ErrNotFound},
		"an option":       {source("--details", ""), providers.ErrInvalid},
		"two lines":       {source("a\nb", ""), providers.ErrInvalid},
	} {
		if err := l.p.CheckSource(ctx, providers.ImageSpec{ImageRef: providers.ImageRef{UID: newID(), Revision: "1"}, Name: name, Source: tc.source}); !errors.Is(err, tc.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	taken := l.imported(t, source("sandbox-golden", "clean")) // absent: it is taken
	if out := manage(t, "snapshot", id, "list", "--machinereadable"); !strings.Contains(out, `SnapshotName="clean"`) {
		t.Errorf("the snapshots are %s", out)
	}
	again := l.imported(t, source(id, "clean")) // present: it is used
	if out := manage(t, "snapshot", id, "list", "--machinereadable"); strings.Contains(out, "SnapshotName-1") {
		t.Errorf("a second snapshot was taken: %s", out)
	}
	before := settingsOf(t, id)
	for _, ref := range []providers.ImageRef{taken, again} {
		spec := l.spec("clone")
		spec.Image = ref
		clone := l.made(t, spec)
		must(t, l.p.Start(ctx, clone))
		if m := l.get(t, clone); m.Power != providers.PowerRunning || !m.Network.Isolated {
			t.Errorf("the clone is %+v", m)
		}
		if err := l.p.DeleteImage(ctx, ref); !errors.Is(err, providers.ErrBusy) || !strings.Contains(err.Error(), "default/clone") {
			t.Errorf("deletion of an image in use: %v", err)
		}
		must(t, l.p.Stop(ctx, clone, providers.StopForce))
		must(t, l.p.Reset(ctx, clone))
		must(t, l.p.Start(ctx, clone))
		remove(t, l.p, clone)
		must(t, l.p.DeleteImage(ctx, ref))
	}
	if after := settingsOf(t, id); after != before {
		t.Errorf("the adopted machine was\n%s\nand is now\n%s", before, after)
	}
}

// TestClonesOfOthers: an image on whose disk somebody else's machine lies is not
// deleted, and keeps its golden machine.
func TestClonesOfOthers(t *testing.T) {
	l := newLab(t)
	golden := ""
	for line := range strings.Lines(manage(t, "list", "vms")) {
		if strings.Contains(line, `"golden.`) {
			golden = line[strings.LastIndex(line, "{")+1 : strings.LastIndex(line, "}")]
		}
	}
	id := string(newID())
	manage(t, "clonevm", golden, "--name", "mine", "--uuid", id, "--snapshot", "sealed", "--options", "link", "--basefolder", t.TempDir(), "--register")
	if err := l.p.DeleteImage(t.Context(), l.image); !errors.Is(err, providers.ErrBusy) {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(manage(t, "list", "vms"), golden) {
		t.Error("the golden machine is gone")
	}
	manage(t, "unregistervm", id, "--delete")
	if _, err := l.p.GetImage(t.Context(), l.image); err != nil {
		t.Errorf("the image: %v", err)
	}
}

// TestConfiguredModes: the network modes that no machine can start with without
// the kernel driver are configured as they should be.
func TestConfiguredModes(t *testing.T) {
	l := newLab(t)
	const link = "uplink" // in the network namespace that the private VirtualBox is alone in
	run(t, "ip", "link", "add", link, "type", "bridge")
	t.Cleanup(func() { run(t, "ip", "link", "delete", link) })
	for _, tc := range []struct {
		network v1.Network
		want    []string
	}{
		{v1.Network{Mode: v1.NetworkIntnet, Name: "lan"}, []string{`nic1="intnet"`, `-default.lan"`}},
		{v1.Network{Mode: v1.NetworkBridged, Bridge: link}, []string{`nic1="bridged"`, `bridgeadapter1="` + link + `"`}},
	} {
		spec := l.spec(string(tc.network.Mode))
		spec.Network = tc.network
		id := l.made(t, spec)
		shown := manage(t, "showvminfo", string(id), "--machinereadable")
		for _, want := range tc.want {
			if !strings.Contains(shown, want) {
				t.Errorf("%s: %s is missing", tc.network.Mode, want)
			}
		}
		if err := l.p.Start(t.Context(), id); err == nil {
			t.Errorf("%s: it starts without a driver", tc.network.Mode)
		} else if providers.KindOf(err) == nil {
			t.Errorf("%s: %v has no kind", tc.network.Mode, err)
		}
	}
	spec := l.spec("hostonly")
	spec.Network.Mode = v1.NetworkHostOnly
	t.Cleanup(func() { remove(t, l.p, spec.ID) })
	if err := l.p.EnsureMachine(t.Context(), spec); !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("without the adapters' driver: %v", err)
	}
}
