package conformance

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// testMachines covers machines that are never started.
func (s *suite) testMachines(t *testing.T) {
	t.Run("EnsureMachine makes a machine that is off and never started, and may be repeated", s.testEnsure)
	t.Run("EnsureMachine brings a machine that is off to the spec", s.testEnsureChanged)
	t.Run("EnsureMachine keeps the disk on the revision that it was cloned from", s.testEnsureRevision)
	t.Run("EnsureMachine is ErrNotFound when the image is missing", s.testEnsureNoImage)
	t.Run("EnsureMachine is ErrInvalid when the spec cannot be met", s.testBadSpecs)
	t.Run("every method is ErrNotFound for a machine that does not exist", s.testNoMachine)
	t.Run("no method takes an ID for a path", s.testHostileIDs)
	t.Run("DeleteMachine may be repeated until it is ErrNotFound", s.testDelete)
}

func (s *suite) testEnsure(t *testing.T) {
	spec := s.spec(t, "machine")
	id := s.id(t, "machine")
	s.reports(t, providers.EventMachine, id, func() { s.made(t, spec) })
	s.ensure(t, spec)
	m := s.wantPower(t, id, providers.PowerOff)
	if m.OffReason != providers.OffNeverStarted || m.Hashes != spec.Hashes() ||
		m.ImageRevision != spec.Image.Revision || m.Agent == providers.AgentConnected {
		t.Errorf("the new machine is %+v", m)
	}
	machines := s.resources(t, func(r providers.Resource) bool {
		return r.Kind == providers.ResourceMachine && ownedBy(id)(r)
	})
	if len(machines) != 1 {
		t.Errorf("one machine was made twice, and there are %+v", machines)
	}
	s.reopen(t)
	if again := s.get(t, id); again.Hashes != m.Hashes || again.Power != m.Power || again.OffReason != m.OffReason {
		t.Errorf("a new process sees %+v, not %+v", again, m)
	}
}

func (s *suite) testEnsureChanged(t *testing.T) {
	spec := s.spec(t, "machine")
	id := s.made(t, spec)
	changes := map[string]func(*providers.MachineSpec){
		"memory":         func(m *providers.MachineSpec) { m.MemoryBytes += 32 << 20 },
		"discard":        func(m *providers.MachineSpec) { m.DiscardOnStop = true },
		"hostname":       func(m *providers.MachineSpec) { m.Seed.Hostname = "other" },
		"user data":      func(m *providers.MachineSpec) { m.Seed.UserData = "#cloud-config\n" },
		"keys":           func(m *providers.MachineSpec) { m.Seed.SSHAuthorizedKeys = []string{keys[0]} },
		"size of disk":   func(m *providers.MachineSpec) { m.DiskBytes = s.grownSize(t, s.image) },
		"number of CPUs": func(m *providers.MachineSpec) { m.CPUs += s.moreCPUs() },
	}
	if s.has(Mode(v1.NetworkNAT)) {
		changes["network"] = func(m *providers.MachineSpec) { m.Network.Mode = v1.NetworkNAT }
	}
	for name, change := range changes {
		changed := spec
		change(&changed)
		s.ensure(t, changed)
		if m := s.get(t, id); m.Hashes != changed.Hashes() {
			t.Errorf("after a change of %s: %+v, want hashes %+v", name, m, changed.Hashes())
		}
	}
	s.ensure(t, spec)
	if m := s.get(t, id); m.Hashes != spec.Hashes() {
		t.Errorf("changed back: %+v, want hashes %+v", m, spec.Hashes())
	}
}

// grownSize is a size of disk larger than the image's.
func (s *suite) grownSize(t *testing.T, of *golden) int64 {
	t.Helper()
	img, err := s.p.GetImage(s.ctx(t), of.ImageRef)
	must(t, "get image", err)
	return img.VirtualSize + 64<<20
}

func (s *suite) moreCPUs() int {
	if s.has(CPUs) {
		return 1
	}
	return 0
}

func (s *suite) testEnsureRevision(t *testing.T) {
	two := revised(s.image.ImageSpec)
	s.importFor(t, two)
	spec := s.spec(t, "machine")
	id := s.made(t, spec)
	changed := spec
	changed.Image = two.ImageRef
	s.ensure(t, changed)
	m := s.get(t, id)
	if m.ImageRevision != spec.Image.Revision {
		t.Errorf("its disk is said to be on revision %q, not %q", m.ImageRevision, spec.Image.Revision)
	}
	if m.Hashes != changed.Hashes() {
		t.Errorf("its hashes are %+v, not those of the new spec, %+v", m.Hashes, changed.Hashes())
	}
	must(t, "delete the revision that nothing uses", s.p.DeleteImage(s.ctx(t), two.ImageRef))
}

func (s *suite) testEnsureNoImage(t *testing.T) {
	spec := s.spec(t, "machine")
	spec.Image.Revision = "none"
	t.Cleanup(func() { s.remove(t, spec.ID) })
	want(t, "ensure", s.p.EnsureMachine(s.ctx(t), spec), providers.ErrNotFound)
	_, err := s.p.GetMachine(s.ctx(t), spec.ID)
	want(t, "get", err, providers.ErrNotFound)
}

func (s *suite) testBadSpecs(t *testing.T) {
	dir := t.TempDir()
	for name, spoil := range map[string]func(*providers.MachineSpec){
		"no CPUs":                  func(m *providers.MachineSpec) { m.CPUs = 0 },
		"no memory":                func(m *providers.MachineSpec) { m.MemoryBytes = 0 },
		"negative memory":          func(m *providers.MachineSpec) { m.MemoryBytes = -1 },
		"negative disk":            func(m *providers.MachineSpec) { m.DiskBytes = -1 },
		"disk smaller than image":  func(m *providers.MachineSpec) { m.DiskBytes = 1 << 20 },
		"unknown network mode":     func(m *providers.MachineSpec) { m.Network.Mode = "open" },
		"bridge that is not there": func(m *providers.MachineSpec) { m.Network = v1.Network{Mode: v1.NetworkBridged, Bridge: "nosuchlink0"} },
		"bridge that is no name":   func(m *providers.MachineSpec) { m.Network = v1.Network{Mode: v1.NetworkBridged, Bridge: "../x"} },
		"forwards without nat": func(m *providers.MachineSpec) {
			m.Network.PortForwards = []v1.PortForward{{Name: "ssh", GuestPort: 22}}
		},
		"two forwards of one port": func(m *providers.MachineSpec) {
			m.Network = v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{tcp("a", 8080, 22), tcp("b", 8080, 80)}}
		},
		"two forwards of one name": func(m *providers.MachineSpec) {
			m.Network = v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{tcp("a", 0, 22), tcp("a", 0, 80)}}
		},
		"forward to no port": func(m *providers.MachineSpec) {
			m.Network = v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{tcp("a", 0, 0)}}
		},
		"forward to a port too high": func(m *providers.MachineSpec) {
			m.Network = v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{tcp("a", 0, 65536)}}
		},
		"forward from a name": func(m *providers.MachineSpec) {
			f := tcp("a", 0, 22)
			f.HostAddress = "localhost"
			m.Network = v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{f}}
		},
		"folder that is not there":  func(m *providers.MachineSpec) { m.SharedFolders = folder(filepath.Join(dir, "nope")) },
		"folder by a relative path": func(m *providers.MachineSpec) { m.SharedFolders = folder(".") },
	} {
		t.Run(name, func(t *testing.T) {
			spec := s.spec(t, "machine")
			spoil(&spec)
			t.Cleanup(func() { s.remove(t, spec.ID) })
			// What depends on the host may be found out at the start only.
			err := s.p.EnsureMachine(s.ctx(t), spec)
			if err == nil && (spec.Network.Mode == v1.NetworkBridged || len(spec.SharedFolders) > 0) {
				err = s.p.Start(s.ctx(t), spec.ID)
			}
			want(t, "ensure", err, s.invalidOr(spec)...)
			if m, err := s.p.GetMachine(s.ctx(t), spec.ID); err == nil && m.Power != providers.PowerOff {
				t.Errorf("the machine is %s all the same", m.Power)
			}
		})
	}
}

// invalidOr adds ErrUnsupported where a feature is missing.
func (s *suite) invalidOr(spec providers.MachineSpec) []error {
	kinds := []error{providers.ErrInvalid}
	if !s.has(Mode(spec.Network.Mode)) ||
		len(spec.SharedFolders) > 0 && !s.has(SharedFolders) {
		kinds = append(kinds, providers.ErrUnsupported)
	}
	return kinds
}

func folder(path string) []v1.SharedFolder {
	return []v1.SharedFolder{{Name: "folder", HostPath: path}}
}

// onMachine calls every method that is given the ID of a machine.
func (s *suite) onMachine(t *testing.T, id types.UID) map[string]error {
	ctx := s.ctx(t)
	_, get := s.p.GetMachine(ctx, id)
	_, exec := s.p.Exec(ctx, id, providers.ExecRequest{Command: []string{"true"}})
	_, read := s.p.ReadFile(ctx, id, "/etc/hostname", &bounded{})
	console, err := s.p.Console(ctx, id, providers.ConsoleOptions{TailBytes: -1})
	if err == nil {
		_ = console.Close()
	}
	_, typing := s.p.TypeAtConsole(ctx, id)
	return map[string]error{
		"GetMachine":       get,
		"Start":            s.p.Start(ctx, id),
		"Stop, gracefully": s.p.Stop(ctx, id, providers.StopGraceful),
		"Stop, by force":   s.p.Stop(ctx, id, providers.StopForce),
		"Suspend":          s.p.Suspend(ctx, id),
		"Reset":            s.p.Reset(ctx, id),
		"DeleteMachine":    s.p.DeleteMachine(ctx, id),
		"Exec":             exec,
		"WriteFile":        s.p.WriteFile(ctx, id, "/x", 0o600, &zeros{left: 1}),
		"ReadFile":         read,
		"ConfigureGuest":   s.p.ConfigureGuest(ctx, id, providers.GuestConfig{User: s.b.User}),
		"Console":          err,
		"TypeAtConsole":    typing,
	}
}

func (s *suite) testNoMachine(t *testing.T) {
	for name, err := range s.onMachine(t, s.id(t, "nothing")) {
		want(t, name, err, providers.ErrNotFound)
	}
}

// testHostileIDs tries to reach a file of the host by the ID of a machine or an
// image.
func (s *suite) testHostileIDs(t *testing.T) {
	dir := t.TempDir()
	canary := filepath.Join(dir, "canary")
	must(t, "write", os.WriteFile(canary, []byte("alive"), 0o644))
	for _, id := range []types.UID{
		types.UID("../../../../../../../../" + canary), types.UID(canary), "..", ".", "", "a/b", "*", "x\x00y", "x\ny",
	} {
		spec := s.spec(t, "machine")
		spec.ID = id
		want(t, "ensure", s.p.EnsureMachine(s.ctx(t), spec), providers.ErrInvalid)
		for name, err := range s.onMachine(t, id) {
			want(t, name, err, providers.ErrNotFound, providers.ErrInvalid)
		}
		for _, ref := range []providers.ImageRef{{UID: id, Revision: "1"}, {UID: s.image.UID, Revision: string(id)}} {
			img := s.image.ImageSpec
			img.ImageRef = ref
			_, err := s.p.ImportImage(s.ctx(t), img, nil)
			want(t, "import "+ref.String(), err, providers.ErrInvalid)
			_, err = s.p.GetImage(s.ctx(t), ref)
			want(t, "get image "+ref.String(), err, providers.ErrNotFound, providers.ErrInvalid)
			want(t, "delete image "+ref.String(), s.p.DeleteImage(s.ctx(t), ref), providers.ErrNotFound, providers.ErrInvalid)
		}
		for _, kind := range []providers.ResourceKind{
			providers.ResourceMachine, providers.ResourceDisk, providers.ResourceSeed, providers.ResourceImage,
			providers.ResourceNetwork, providers.ResourceState, providers.ResourceLog, providers.ResourceFile, "other",
		} {
			r := providers.Resource{Kind: kind, ID: string(id), Ownership: providers.Ours}
			want(t, "remove "+string(kind)+" "+r.ID, s.p.RemoveResource(s.ctx(t), r), providers.ErrNotFound, providers.ErrInvalid)
		}
	}
	if b, err := os.ReadFile(canary); err != nil || string(b) != "alive" {
		t.Errorf("a file of the host became %q, %v", b, err)
	}
}

func (s *suite) testDelete(t *testing.T) {
	id := s.made(t, s.spec(t, "machine"))
	s.reports(t, providers.EventMachine, id, func() { s.remove(t, id) })
	for range 2 {
		want(t, "delete what is gone", s.p.DeleteMachine(s.ctx(t), id), providers.ErrNotFound)
	}
	_, err := s.p.GetMachine(s.ctx(t), id)
	want(t, "get what is gone", err, providers.ErrNotFound)
	s.ensure(t, s.spec(t, "machine"))
	if m := s.get(t, id); m.OffReason != providers.OffNeverStarted {
		t.Errorf("a machine that was made again is %+v", m)
	}
	if !slices.ContainsFunc(s.resources(t, ownedBy(id)), func(r providers.Resource) bool {
		return r.Kind == providers.ResourceMachine && r.Ownership == providers.Ours
	}) {
		t.Error("a machine that was made again is not listed")
	}
}
