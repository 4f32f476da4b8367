package conformance

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// suite is one run: the backend, the provider that is open at the moment, and
// what the subtests share.
type suite struct {
	b        Backend
	root     *testing.T
	instance providers.Instance
	p        providers.Provider
	events   *recorder
	image    *golden   // of machines whose guest is not waited for
	guests   *golden   // of the others; the same without Backend.Idle
	shared   types.UID // the shared guest, once it was made
	folders  sharedFolders
	bare     map[types.UID]bool // machines that were cloned from no image
	dirs     []string           // of the shared guest, not used yet
	batches  int                // of such directories
	touched  sync.Map           // machines that were changed behind our back, by ID

	sharedSpec providers.MachineSpec
}

// golden is an image that the subtests share, imported for the first of them.
type golden struct {
	providers.ImageSpec
	imported sync.Once
}

func newSuite(t *testing.T, b Backend) *suite {
	b.User = cmp.Or(b.User, "root")
	b.RootDisk = cmp.Or(b.RootDisk, "vda")
	b.Parallel = cmp.Or(b.Parallel, 4)
	b.Commands = cmp.Or(b.Commands, 50)
	b.Bulk = cmp.Or(b.Bulk, 1<<20)
	b.Limits.Boot = cmp.Or(b.Limits.Boot, 10*time.Minute)
	b.Limits.Call = cmp.Or(b.Limits.Call, 5*time.Minute)
	if b.Folder == nil {
		b.Folder = func(t testing.TB) string { return t.TempDir() }
	}
	if b.Dial == nil {
		b.Dial = (&net.Dialer{}).DialContext
	}
	if b.Occupy == nil {
		b.Occupy = occupy
	}
	s := &suite{b: b, root: t, bare: map[types.UID]bool{}, instance: providers.Instance(uuidOf(t.Name(), "instance"))}
	s.guests = &golden{ImageSpec: s.imageOf(b.Image, "golden")}
	s.image = s.guests
	if b.Idle.Path != "" {
		s.image = &golden{ImageSpec: s.imageOf(b.Idle, "idle")}
	}
	s.requireHooks(t)
	s.open(t)
	t.Cleanup(s.end)
	return s
}

// requireHooks fails unless each hook is there or its feature is skipped.
func (s *suite) requireHooks(t *testing.T) {
	_, outside := s.b.Skip[Outside]
	_, broken := s.b.Skip[BrokenNetwork]
	_, installs := s.b.Skip[Install]
	_, bridged := s.b.Skip[Mode(v1.NetworkBridged)]
	for name, missing := range map[string]bool{
		"Open":         s.b.Open == nil,
		"Foreign":      s.b.Foreign == nil,
		"Audit":        s.b.Audit == nil,
		"Crash":        s.b.Crash == nil && !outside,
		"Pause":        s.b.Pause == nil && !outside,
		"Undefine":     s.b.Undefine == nil && !outside,
		"BreakNetwork": s.b.BreakNetwork == nil && !broken,
		"Tamper":       s.b.Tamper == nil && s.tampers(),
		"Bridge":       s.b.Bridge == "" && !bridged,
		"Installer":    s.b.Installer.Path == "" && !installs,
		"Image":        s.b.Image.Path == "" || s.b.Image.SHA256 == "",
		"Hardware":     s.b.Hardware.CPUs < 1 || s.b.Hardware.MemoryBytes == 0,
	} {
		if missing {
			t.Fatalf("the backend has no %s and skips no feature for it", name)
		}
	}
}

// tampers tells whether any tampering is not skipped.
func (s *suite) tampers() bool {
	return slices.ContainsFunc(allDrifted, func(d drifted) bool { return s.has(Drifts(d.how)) || s.has(DriftsOn(d.how)) })
}

// open opens the provider and records its events.
func (s *suite) open(t testing.TB) {
	p := s.b.Open(t, s.instance)
	s.p = check(s.root, p)
	s.events = record(p)
}

// reopen is a new process of the daemon.
func (s *suite) reopen(t testing.TB) {
	t.Helper()
	s.events.stop(t)
	if err := s.p.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	s.open(t)
}

// end removes what the subtests shared and audits the hypervisor.
func (s *suite) end() {
	t := s.root
	if s.shared != "" {
		s.remove(t, s.shared)
	}
	s.removeImage(t, s.guests.ImageRef)
	s.removeImage(t, s.image.ImageRef)
	if left := s.resources(t, func(providers.Resource) bool { return true }); len(left) > 0 {
		t.Errorf("everything was deleted, and yet there is %+v", left)
	}
	s.events.stop(t)
	if err := errors.Join(s.p.Close(), s.p.Close()); err != nil {
		t.Errorf("close, twice: %v", err)
	}
	if _, err := s.p.Probe(context.Background()); !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("a closed provider answers %v", err)
	}
	if left := s.b.Audit(t); len(left) > 0 {
		t.Errorf("left on the hypervisor: %q", left)
	}
}

// need skips a test of features that the backend cannot show.
func (s *suite) need(t *testing.T, features ...Feature) {
	t.Helper()
	for _, f := range features {
		if reason, ok := s.b.Skip[f]; ok {
			t.Skipf("%s: %s", f, reason)
		}
	}
}

// detail skips a test that the brief form leaves out.
func (s *suite) detail(t *testing.T) {
	t.Helper()
	if s.b.Brief || testing.Short() {
		t.Skip("left out of the brief form")
	}
}

func (s *suite) has(f Feature) bool {
	_, skipped := s.b.Skip[f]
	return !skipped
}

// ctx stops a call that hangs.
func (s *suite) ctx(t testing.TB) context.Context { return within(t, s.b.Limits.Call) }

func within(t testing.TB, d time.Duration) context.Context {
	// Not the test's own context: that ends before the cleanup does.
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func uuidOf(parts ...string) string {
	id := uuid.NameSpaceOID
	for _, p := range parts {
		id = uuid.NewSHA1(id, []byte(p))
	}
	return id.String()
}

// id is the UID of a test's machine: always the same one.
func (s *suite) id(t testing.TB, name string) types.UID {
	return types.UID(uuidOf(string(s.instance), t.Name(), name))
}

// imageSpec is an image of a test's own, of the guest's disk.
func (s *suite) imageSpec(name string) providers.ImageSpec { return s.imageOf(s.b.Image, name) }

// revised is the next revision of an image.
func revised(spec providers.ImageSpec) providers.ImageSpec {
	spec.Revision = "2"
	return spec
}

func (s *suite) imageOf(disk v1.DiskSource, name string) providers.ImageSpec {
	return providers.ImageSpec{
		ImageRef: providers.ImageRef{UID: types.UID(uuidOf(s.root.Name(), name)), Revision: "1"},
		Name:     "golden",
		Source:   v1.ImageSource{Disk: &disk},
		Machine:  v1.MachineDefaults{Firmware: s.b.Hardware.Firmware, OSType: s.b.Hardware.OSType},
	}
}

// spec is a machine without a network, whose guest is not waited for.
func (s *suite) spec(t testing.TB, name string) providers.MachineSpec {
	t.Helper()
	return s.clone(t, s.image, name)
}

// clone is a machine without a network, cloned from a shared image.
func (s *suite) clone(t testing.TB, of *golden, name string) providers.MachineSpec {
	t.Helper()
	of.imported.Do(func() {
		if _, err := s.p.ImportImage(s.ctx(t), of.ImageSpec, nil); err != nil {
			t.Fatalf("import of the golden image: %v", err)
		}
	})
	return providers.MachineSpec{
		ID: s.id(t, name), Namespace: "conformance", Name: name, Image: of.ImageRef,
		CPUs: s.b.Hardware.CPUs, MemoryBytes: s.b.Hardware.MemoryBytes,
		Firmware: s.b.Hardware.Firmware, OSType: s.b.Hardware.OSType,
		Network: v1.Network{Mode: v1.NetworkNone},
		Seed:    providers.Seed{Hostname: name, User: s.b.User},
	}
}

// made makes a machine that is removed with the test.
func (s *suite) made(t testing.TB, spec providers.MachineSpec) types.UID {
	t.Helper()
	t.Cleanup(func() { s.remove(t, spec.ID) })
	s.ensure(t, spec)
	return spec.ID
}

// remove deletes a machine until it is gone, and looks for what is left of it.
func (s *suite) remove(t testing.TB, id types.UID) {
	t.Helper()
	for range 10 {
		err := s.p.DeleteMachine(s.ctx(t), id)
		if errors.Is(err, providers.ErrNotFound) {
			break
		}
		if err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if err := s.p.DeleteMachine(s.ctx(t), id); !errors.Is(err, providers.ErrNotFound) {
		t.Errorf("a machine that was deleted ten times still gives %v", err)
	}
	if left := s.resources(t, ownedBy(id)); len(left) > 0 {
		t.Errorf("left of the machine: %+v", left)
	}
}

func (s *suite) removeImage(t testing.TB, ref providers.ImageRef) {
	t.Helper()
	if err := s.p.DeleteImage(s.ctx(t), ref); err != nil && !errors.Is(err, providers.ErrNotFound) {
		t.Errorf("delete image: %v", err)
	}
	if left := s.resources(t, ownedBy(ref.UID)); len(left) > 0 &&
		!slices.ContainsFunc(left, func(r providers.Resource) bool { return r.Kind == providers.ResourceImage }) {
		t.Errorf("left of the image: %+v", left)
	}
}

func ownedBy(id types.UID) func(providers.Resource) bool {
	return func(r providers.Resource) bool { return slices.Contains(r.Owners, id) }
}

// resources lists those that match.
func (s *suite) resources(t testing.TB, match func(providers.Resource) bool) []providers.Resource {
	t.Helper()
	all, err := s.p.ListResources(s.ctx(t))
	if err != nil {
		t.Fatalf("list resources: %v", err)
	}
	return slices.DeleteFunc(all, func(r providers.Resource) bool { return !match(r) })
}

// occupy listens on a free port.
func occupy(t testing.TB) int32 {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return int32(l.Addr().(*net.TCPAddr).Port)
}
