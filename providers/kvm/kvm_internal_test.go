//go:build linux

package kvm

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirtxml"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/kvm/internal/accel"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
)

// offline is a provider whose libvirt is not there.
func offline(t *testing.T) *Provider {
	t.Helper()
	p, err := New(Options{Instance: "instance-1", DataDir: filepath.Join(t.TempDir(), "data"), Socket: "/nonexistent/libvirt-sock"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func TestPower(t *testing.T) {
	for _, tc := range []struct {
		state  libvirt.DomainState
		reason int32
		saved  bool
		want   providers.Power
		off    providers.OffReason
	}{
		{libvirt.DomainRunning, 0, false, providers.PowerRunning, ""},
		{libvirt.DomainBlocked, 0, false, providers.PowerRunning, ""},
		{libvirt.DomainPaused, int32(libvirt.DomainPausedStartingUp), false, providers.PowerPaused, ""},
		{libvirt.DomainPaused, int32(libvirt.DomainPausedIoerror), false, providers.PowerPaused, ""},
		{libvirt.DomainPaused, int32(libvirt.DomainPausedShuttingDown), false, providers.PowerStopping, ""},
		{libvirt.DomainPmsuspended, 0, false, providers.PowerPaused, ""},
		{libvirt.DomainShutdown, 0, false, providers.PowerStopping, ""},
		{libvirt.DomainCrashed, 0, false, providers.PowerOff, providers.OffCrashed},
		{libvirt.DomainShutoff, int32(libvirt.DomainShutoffSaved), true, providers.PowerSaved, ""},
		{libvirt.DomainShutoff, int32(libvirt.DomainShutoffUnknown), true, providers.PowerSaved, ""},
		{libvirt.DomainShutoff, int32(libvirt.DomainShutoffShutdown), false, providers.PowerOff, providers.OffShutdown},
		{libvirt.DomainShutoff, int32(libvirt.DomainShutoffDestroyed), false, providers.PowerOff, providers.OffDestroyed},
		{libvirt.DomainShutoff, int32(libvirt.DomainShutoffSaved), false, providers.PowerOff, providers.OffDestroyed},
		{libvirt.DomainShutoff, int32(libvirt.DomainShutoffCrashed), false, providers.PowerOff, providers.OffCrashed},
		{libvirt.DomainShutoff, int32(libvirt.DomainShutoffFailed), false, providers.PowerOff, providers.OffCrashed},
		{libvirt.DomainShutoff, int32(libvirt.DomainShutoffDaemon), false, providers.PowerOff, providers.OffCrashed},
		{libvirt.DomainShutoff, int32(libvirt.DomainShutoffUnknown), false, providers.PowerOff, providers.OffUnknown},
		{libvirt.DomainShutoff, 999, false, providers.PowerOff, providers.OffUnknown},
	} {
		got, off := power(tc.state, tc.reason, tc.saved)
		if got != tc.want || off != tc.off {
			t.Errorf("%+v is %s, %s", tc, got, off)
		}
	}
}

func TestChooseAccelerator(t *testing.T) {
	works, broken := accel.Result{Works: true}, accel.Result{Reason: "it is broken"}
	for _, tc := range []struct {
		choice  string
		offered bool
		probe   accel.Result
		want    string
		notes   int
	}{
		{AcceleratorAuto, true, works, "kvm", 0},
		{AcceleratorAuto, true, broken, "tcg", 1},
		{AcceleratorAuto, false, works, "tcg", 1},
		{AcceleratorKVM, false, broken, "kvm", 0},
		{AcceleratorTCG, true, works, "tcg", 1},
	} {
		got, notes := chooseAccelerator(tc.choice, tc.offered, func() accel.Result { return tc.probe })
		if got != tc.want || len(notes) != tc.notes {
			t.Errorf("%+v: %s, %q", tc, got, notes)
		}
	}
}

func TestQEMUUser(t *testing.T) {
	var caps libvirtxml.Caps
	text := `<capabilities><host><secmodel><model>apparmor</model></secmodel><secmodel><model>dac</model>
<baselabel type='kvm'>+64055:+107</baselabel></secmodel></host></capabilities>`
	if err := caps.Unmarshal(text); err != nil {
		t.Fatal(err)
	}
	if uid, gid := qemuUser(caps); uid != 64055 || gid != 107 {
		t.Errorf("%d:%d", uid, gid)
	}
	if uid, gid := qemuUser(libvirtxml.Caps{}); uid != -1 || gid != -1 {
		t.Errorf("of nothing: %d:%d", uid, gid)
	}
}

func TestOptions(t *testing.T) {
	dir := t.TempDir()
	for name, o := range map[string]Options{
		"no instance":         {DataDir: dir},
		"relative folder":     {Instance: "i", DataDir: "data"},
		"unknown accelerator": {Instance: "i", DataDir: dir, Accelerator: "fast"},
		"small pool":          {Instance: "i", DataDir: dir, SubnetPool: netip.MustParsePrefix("10.0.0.0/24")},
		"IPv6 pool":           {Instance: "i", DataDir: dir, SubnetPool: netip.MustParsePrefix("fd00::/16")},
	} {
		if p, err := New(o); !errors.Is(err, providers.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
			if p != nil {
				_ = p.Close()
			}
		}
	}
}

func TestDataFolderBelongsToOneInstance(t *testing.T) {
	p := offline(t)
	again, err := New(p.opts)
	if err != nil {
		t.Fatalf("the same instance again: %v", err)
	}
	_ = again.Close()
	o := p.opts
	o.Instance = "instance-2"
	if _, err := New(o); !errors.Is(err, providers.ErrInvalid) || !strings.Contains(err.Error(), "instance-1") {
		t.Errorf("another instance: %v", err)
	}
	if info, err := os.Stat(p.data.Machines()); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestWithoutLibvirt(t *testing.T) {
	p := offline(t)
	ctx := context.Background()
	if _, err := p.Probe(ctx); !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("probe: %v", err)
	}
	if _, err := p.GetMachine(ctx, judged); !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("get: %v", err)
	}
	if err := p.DeleteMachine(ctx, judged); !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("delete: %v", err)
	}
	if _, err := p.GetImage(ctx, providers.ImageRef{UID: "a", Revision: "b"}); !errors.Is(err, providers.ErrNotFound) {
		t.Errorf("images need no libvirt: %v", err)
	}
	events, cancel := context.WithCancel(ctx)
	ch := p.Events(events)
	cancel()
	for range ch { //nolint:revive // waits for the end
	}
}

// TestDeparted: of a machine that is gone, events are passed on for a while.
func TestDeparted(t *testing.T) {
	var d departed
	at := time.Now()
	d.add("a", at)
	if !d.has("a", at.Add(goneFor)) || d.has("a", at.Add(goneFor+1)) || d.has("b", at) {
		t.Errorf("there are %v", d.ids)
	}
	d.add("b", at.Add(goneFor+1))
	if len(d.ids) != 1 {
		t.Errorf("it keeps %v", d.ids)
	}
}

// TestNothingBeginsAfterClose: what Close has waited for stays so.
func TestNothingBeginsAfterClose(t *testing.T) {
	p := offline(t)
	var over atomic.Bool
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for p.life.Go(func() {
				if over.Load() {
					t.Error("something began after Close")
				}
			}) {
			}
		})
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	over.Store(true)
	callers.Wait()
	for range p.Events(context.Background()) {
		t.Error("an event after Close")
	}
}

// TestImportSurvivesWhatWasLeft imports over what a process that was killed at
// any point could have left.
func TestImportSurvivesWhatWasLeft(t *testing.T) {
	p := offline(t)
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "disk.raw")
	content := make([]byte, 2<<20)
	copy(content, "boot")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	ref := providers.ImageRef{UID: "image", Revision: "r1"}
	spec := providers.ImageSpec{ImageRef: ref, Name: "image", Source: v1.ImageSource{Disk: &v1.DiskSource{Path: path, Format: v1.DiskFormatRaw}}}
	for name, leave := range map[string]func(){
		"staging": func() { _ = os.MkdirAll(p.data.Staging(ref)+"/deep", 0o700) },
		"half a source": func() {
			_ = os.MkdirAll(p.data.Staging(ref), 0o700)
			_ = os.WriteFile(p.data.Staging(ref)+"/source", []byte("x"), 0o600)
		},
		"an unsealed image": func() {
			_ = os.MkdirAll(p.data.ImageDir(ref.UID), 0o711)
			_ = os.WriteFile(p.data.image(ref), []byte("x"), 0o400)
		},
		"a seal alone": func() {
			_ = os.MkdirAll(p.data.ImageDir(ref.UID), 0o711)
			_ = os.WriteFile(p.data.Sidecar(ref), []byte("{}"), 0o400)
		},
		"a temporary sidecar": func() {
			_ = os.MkdirAll(p.data.ImageDir(ref.UID), 0o711)
			_ = os.WriteFile(p.data.ImageDir(ref.UID)+"/.r1.json-1", nil, 0o400)
		},
	} {
		leave()
		if _, err := p.GetImage(ctx, ref); !errors.Is(err, providers.ErrNotFound) {
			t.Errorf("%s passes for an image: %v", name, err)
		}
		img, err := p.ImportImage(ctx, spec, nil)
		if errors.Is(err, providers.ErrUnavailable) && strings.Contains(err.Error(), "not installed") {
			t.Skip(err)
		}
		if err != nil || img.VirtualSize != 2<<20 {
			t.Fatalf("%s: %+v, %v", name, img, err)
		}
		if info, err := os.Stat(p.data.image(ref)); err != nil || info.Mode().Perm() != 0o444 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
		if files.Exists(p.data.Staging(ref)) {
			t.Errorf("%s: the import left its staging folder", name)
		}
		if err := p.DeleteImage(ctx, ref); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

func TestSourcesThatAreNoPlainFiles(t *testing.T) {
	p := offline(t)
	dir := t.TempDir()
	real := filepath.Join(dir, "real")
	if err := os.WriteFile(real, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	link, viaDir, fifo := filepath.Join(dir, "link"), filepath.Join(dir, "d"), filepath.Join(dir, "fifo")
	for _, err := range []error{os.Symlink(real, link), os.Symlink(dir, viaDir), mkfifo(fifo)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{link, filepath.Join(viaDir, "real"), fifo, dir, "/dev/zero"} {
		spec := providers.ImageSpec{
			ImageRef: providers.ImageRef{UID: "image", Revision: "r1"}, Name: "image",
			Source: v1.ImageSource{Disk: &v1.DiskSource{Path: path, Format: v1.DiskFormatRaw}},
		}
		if _, err := p.ImportImage(context.Background(), spec, nil); !errors.Is(err, providers.ErrInvalid) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if entries, _ := os.ReadDir(p.data.Images()); len(entries) > 0 {
		t.Errorf("left: %v", entries)
	}
}

func TestImageOfAPath(t *testing.T) {
	l := newLayout("/data")
	ref := providers.ImageRef{UID: "u", Revision: "r"}
	if got, ok := l.refOf(l.image(ref)); !ok || got != ref {
		t.Errorf("%+v, %v", got, ok)
	}
	for _, path := range []string{"/data/images/u/../v/r.qcow2", "/data/images/u/r", "/etc/passwd", "/data/images/u/r.qcow2/x"} {
		if got, ok := l.refOf(path); ok {
			t.Errorf("%s is taken for %+v", path, got)
		}
	}
}

// TestStraysInTheDataFolder: a file in the place of a folder was not made here;
// it is told and does not keep the rest from being listed.
func TestStraysInTheDataFolder(t *testing.T) {
	p := offline(t)
	for _, path := range []string{p.data.Machines() + "/stray", p.data.Images() + "/stray"} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc", filepath.Join(p.data.Machines(), string(judged))); err != nil {
		t.Fatal(err)
	}
	for _, list := range []func(context.Context) ([]providers.Resource, error){p.listMachineFiles, p.listImages} {
		all, err := list(context.Background())
		if err != nil || len(all) == 0 {
			t.Fatalf("%v, %v", all, err)
		}
		for _, r := range all {
			if r.Ownership != providers.Ambiguous {
				t.Errorf("%+v may be collected", r)
			}
		}
	}
}

func TestGuestStatesAreOfOneConnection(t *testing.T) {
	var epoch uint64 = 1
	g := newGuestStates(func() uint64 { return epoch })
	g.get(judged)
	g.answered(judged)
	now := time.Now()
	if s := g.get(judged); s.agent != providers.AgentConnected || s.due(now) || !s.due(now.Add(time.Minute)) {
		t.Errorf("%+v", s)
	}
	for range 10 {
		g.unanswered(judged)
	}
	if s := g.get(judged); s.agent != providers.AgentUnknown || s.retry != retryLast || s.due(now) {
		t.Errorf("%+v", s)
	}
	g.answered(judged)
	epoch = 2
	if s := g.get(judged); s.agent != "" || !s.due(now) {
		t.Errorf("after a new connection: %+v", s)
	}
}

func TestInterfacesThatAGuestClaims(t *testing.T) {
	for name, tc := range map[string]struct {
		reply string
		want  int
	}{
		"good":       {`{"return":[{"name":"eth0","ip-addresses":[{"ip-address":"10.0.0.1"},{"ip-address":"fe80::1%eth0"}]}]}`, 2},
		"no IP":      {`{"return":[{"ip-addresses":[{"ip-address":"; rm -rf /"}]}]}`, 0},
		"not JSON":   {`x`, 0},
		"other JSON": {`{"return":{"a":1}}`, 0},
		"too many":   {`{"return":[{"ip-addresses":[` + strings.TrimSuffix(strings.Repeat(`{"ip-address":"10.0.0.1"},`, 1000), ",") + `]}]}`, maxAddresses},
	} {
		if got := parseInterfaces(tc.reply); len(got) != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	list := addressList([]netip.Addr{parseAddr("127.0.0.1"), parseAddr("fe80::1"), parseAddr("10.0.0.1"), {}, parseAddr("::ffff:10.0.0.2")}, v1.AddressFromAgent)
	want := []v1.GuestAddress{{IP: "10.0.0.1", Source: v1.AddressFromAgent}, {IP: "10.0.0.2", Source: v1.AddressFromAgent}}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Error(diff)
	}
}

// TestRotatedConsole: older files of a log are found in their order, and nothing else.
func TestRotatedConsole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	for _, suffix := range []string{".1", ".0", "", ".x", ".10", ".-1", ".2.new"} {
		if err := os.WriteFile(path+suffix, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := rotated(path)
	if want := []string{path + ".10", path + ".1", path + ".0"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("found %q, %v, not %q", got, err, want)
	}
	if got, err := rotated(path + "-none"); err != nil || len(got) > 0 {
		t.Errorf("no log: %q, %v", got, err)
	}
}

func TestSpecsThatCannotBeMet(t *testing.T) {
	fine := providers.MachineSpec{
		ID: judged, Namespace: "team", Name: "web", Image: providers.ImageRef{UID: "i", Revision: "r"},
		CPUs: 1, MemoryBytes: 64 << 20, Network: v1.Network{Mode: v1.NetworkNone},
	}
	if err := validate(fine); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*providers.MachineSpec){
		"no CPU":        func(s *providers.MachineSpec) { s.CPUs = 0 },
		"too many CPUs": func(s *providers.MachineSpec) { s.CPUs = 1000 },
		"memory":        func(s *providers.MachineSpec) { s.MemoryBytes = 1 },
		"another sandbox's bridge": func(s *providers.MachineSpec) {
			n, _ := identity.NetworkOf("other", "team", v1.Network{Mode: v1.NetworkHostOnly})
			s.Network = v1.Network{Mode: v1.NetworkBridged, Bridge: n.Bridge()}
		},
		"another sandbox's tap": func(s *providers.MachineSpec) {
			s.Network = v1.Network{Mode: v1.NetworkBridged, Bridge: identity.Tap("other", v1.NetworkBridged, "x")}
		},
		"folder that XML cannot name": func(s *providers.MachineSpec) {
			s.SharedFolders = []v1.SharedFolder{{Name: "a", HostPath: "/srv/bell\a"}}
		},
	} {
		s := fine
		edit(&s)
		if err := validate(s); !errors.Is(err, providers.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
