package crash_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/store"
)

// simulated is a simulated host, on which others live too.
type simulated struct {
	world    *fake.World
	land     land
	instance providers.Instance
	before   []string
}

// The machines of others.
const (
	stranger  = types.UID("aaaaaaaa-0000-4000-8000-000000000001") // of another daemon, running
	sleeper   = types.UID("aaaaaaaa-0000-4000-8000-000000000002") // of another daemon, suspended
	untagged  = types.UID("aaaaaaaa-0000-4000-8000-000000000003") // made by hand
	lookalike = types.UID("aaaaaaaa-0000-4000-8000-000000000004") // tagged with a part of our ID
	otherOne  = providers.Instance("bbbbbbbb-0000-4000-8000-000000000001")
)

func simulate(dir string) (*simulated, error) {
	w := fake.NewWorld(fake.Options{
		Source: func(path string) (fake.Source, bool) {
			digit := "a"
			if strings.HasSuffix(path, "other.qcow2") {
				digit = "b"
			}
			return fake.Source{SHA256: strings.Repeat(digit, 64)}, strings.HasSuffix(path, ".qcow2")
		},
		Latency: fake.Latency{Boot: 5 * time.Millisecond, Shutdown: 5 * time.Millisecond},
	})
	h := &simulated{world: w}
	h.land = land{
		dir: dir, log: logr.Discard(), pace: pace,
		open: func(i providers.Instance) (providers.Provider, error) {
			h.instance = i
			if h.before == nil {
				if err := h.meet(); err != nil {
					return nil, err
				}
			}
			return fake.New(h.world, v1.ProviderKVM, i), nil
		},
	}
	for _, f := range []string{"golden.qcow2", "other.qcow2"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("image"), 0o600); err != nil {
			return nil, err
		}
	}
	return h, h.populate()
}

// begin starts a control plane; the first one gives the host its instance.
func (h *simulated) begin(d *death, j *journal) (*plane, error) {
	l := h.land
	l.shared = func(s store.Store) store.Store { return &mortal{s, d, j} }
	h.world.OnStep(d.step)
	return l.start(d)
}

// populate makes what others have on the host.
func (h *simulated) populate() error {
	ctx := context.Background()
	p := fake.New(h.world, v1.ProviderKVM, otherOne)
	image := providers.ImageSpec{
		ImageRef: providers.ImageRef{UID: "cccccccc-0000-4000-8000-000000000001", Revision: "r1"}, Name: "golden",
		Source: v1.ImageSource{Disk: &v1.DiskSource{Path: "/golden.qcow2"}},
	}
	_, err := p.ImportImage(ctx, image, nil)
	errs := []error{err}
	for id, name := range map[types.UID]string{stranger: "box", sleeper: "sleeper"} {
		spec := providers.MachineSpec{
			ID: id, Namespace: "default", Name: name, Image: image.ImageRef, CPUs: 1, MemoryBytes: 128 << 20,
			Network: v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{{Name: "ssh", Protocol: v1.ProtocolTCP, GuestPort: 22}}},
		}
		errs = append(errs, p.EnsureMachine(ctx, spec), p.Start(ctx, id))
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		err = p.WriteFile(ctx, stranger, "/root/theirs", 0o600, strings.NewReader("theirs"))
		if err == nil || time.Now().After(deadline) {
			break
		}
	}
	errs = append(errs, err, p.Suspend(ctx, sleeper), h.world.AddForeign(untagged, ""))
	return errors.Join(errs...)
}

// meet places a machine that looks like one of the instance, which is known now, and
// looks at what there is of others.
func (h *simulated) meet() error {
	if err := h.world.AddForeign(lookalike, h.instance.Short()); err != nil {
		return err
	}
	others, err := h.others(context.Background())
	h.before = others
	return err
}

// others describes what others have, in all detail.
func (h *simulated) others(ctx context.Context) ([]string, error) {
	p := fake.New(h.world, v1.ProviderKVM, otherOne)
	all, err := p.ListResources(ctx)
	if err != nil {
		return nil, err
	}
	var lines []string
	add := func(what string, of any, err error) {
		if err != nil {
			of = err.Error()
		}
		b, _ := json.Marshal(of)
		lines = append(lines, what+" "+string(b))
	}
	for _, r := range all {
		add("resource", r, nil)
	}
	for _, id := range []types.UID{stranger, sleeper} {
		m, err := p.GetMachine(ctx, id)
		add("machine", m, err)
	}
	for _, path := range []string{"/root/theirs", "/proc/sys/kernel/random/boot_id"} {
		var content strings.Builder
		_, err := p.ReadFile(ctx, stranger, path, &content)
		add(path, content.String(), err)
	}
	for _, line := range h.world.Inventory() {
		if strings.Contains(line, string(untagged)) || strings.Contains(line, string(lookalike)) {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines, nil
}

func (h *simulated) store() string { return h.land.path("store.db") }

func (h *simulated) was() []string { return h.before }

// things lists what there is of ours: what the provider says, and what it keeps
// silent about.
func (h *simulated) things(ctx context.Context) ([]providers.Resource, error) {
	p := fake.New(h.world, v1.ProviderKVM, h.instance)
	all, err := p.ListResources(ctx)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(r providers.Resource) bool { return r.ID == string(lookalike) })
	said := func(line string) bool {
		return slices.ContainsFunc(all, func(r providers.Resource) bool {
			return strings.Contains(line, r.ID) || strings.Contains(line, snapshotLine(r.ID))
		})
	}
	theirs, err := fake.New(h.world, v1.ProviderKVM, otherOne).ListResources(ctx)
	if err != nil {
		return nil, err
	}
	for _, line := range h.world.Inventory() {
		other := strings.Contains(line, string(otherOne)) || strings.Contains(line, string(untagged)) || strings.Contains(line, string(lookalike)) ||
			slices.ContainsFunc(theirs, func(r providers.Resource) bool { return strings.Contains(line, r.ID) })
		if !other && !said(line) {
			all = append(all, providers.Resource{Kind: "unlisted", ID: line, Ownership: providers.Ours})
		}
	}
	return append(all, h.logs()...), nil
}

// snapshotLine is what the inventory of a world calls MACHINE/SNAPSHOT.
func snapshotLine(id string) string {
	machine, snap, _ := strings.Cut(id, "/")
	return snap + " of " + machine
}

// logs are those of builds.
func (h *simulated) logs() (all []providers.Resource) {
	files, _ := filepath.Glob(h.land.path("builds/*"))
	for _, f := range files {
		id := strings.TrimSuffix(filepath.Base(f), ".log")
		all = append(all, providers.Resource{Kind: "build log", ID: id, Owners: []types.UID{types.UID(id)}, Description: f})
	}
	return all
}

// read reads a file of a guest; "" when there is none.
func (h *simulated) read(ctx context.Context, id types.UID, path string) (string, error) {
	var out strings.Builder
	_, err := fake.New(h.world, v1.ProviderKVM, h.instance).ReadFile(ctx, id, path, &out)
	if errors.Is(err, providers.ErrNotFound) {
		return "", nil
	}
	return out.String(), err
}

func (h *simulated) write(ctx context.Context, id types.UID, path, content string) error {
	return fake.New(h.world, v1.ProviderKVM, h.instance).WriteFile(ctx, id, path, 0o600, strings.NewReader(content))
}

// machine looks at one of ours.
func (h *simulated) machine(ctx context.Context, id types.UID) (providers.Machine, error) {
	m, err := fake.New(h.world, v1.ProviderKVM, h.instance).GetMachine(ctx, id)
	if err != nil {
		return m, fmt.Errorf("machine of %s: %w", id, err)
	}
	return m, nil
}
