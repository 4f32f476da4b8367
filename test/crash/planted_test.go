package crash_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/store"
	"sandboxd.dev/sandboxd/store/bolt"
)

const planted = types.UID("dddddddd-0000-4000-8000-000000000001")

// TestAuditFinds plants what an audit is there for, one thing at a time.
func TestAuditFinds(t *testing.T) {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// ensure makes a machine as the daemon would, of no sandbox.
	ensure := func(t *testing.T, p providers.Provider, image providers.ImageRef, name string) {
		t.Helper()
		must(t, p.EnsureMachine(t.Context(), providers.MachineSpec{
			ID: planted, Namespace: "default", Name: name, Image: image, CPUs: 1, MemoryBytes: 128 << 20,
			Network: v1.Network{Mode: v1.NetworkNone},
		}))
	}
	one := func(list []string, says string) bool {
		return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, says) })
	}
	for _, tt := range []struct {
		name  string
		plant func(t *testing.T, h *simulated, p providers.Provider, box *v1.Sandbox, image providers.ImageRef)
		found func(findings) bool
	}{
		{
			"nothing", func(*testing.T, *simulated, providers.Provider, *v1.Sandbox, providers.ImageRef) {},
			func(f findings) bool { return f.none() },
		},
		{
			"a machine of no sandbox",
			func(t *testing.T, _ *simulated, p providers.Provider, _ *v1.Sandbox, image providers.ImageRef) {
				ensure(t, p, image, "nobody")
			},
			func(f findings) bool { return one(f.orphans, "machine "+string(planted)) && len(f.duplicates) == 0 },
		},
		{
			"a disk of no machine",
			func(t *testing.T, h *simulated, p providers.Provider, _ *v1.Sandbox, image providers.ImageRef) {
				ensure(t, p, image, "nobody")
				must(t, h.world.Undefine(planted))
			},
			func(f findings) bool { return one(f.orphans, "disk "+string(planted)) && !one(f.orphans, "(default/") },
		},
		{
			"a second machine of a sandbox",
			func(t *testing.T, _ *simulated, p providers.Provider, box *v1.Sandbox, image providers.ImageRef) {
				ensure(t, p, image, box.Name)
			},
			func(f findings) bool { return one(f.duplicates, "2 times machine of default/box") },
		},
		{
			"a sandbox without its machine",
			func(t *testing.T, h *simulated, _ providers.Provider, box *v1.Sandbox, _ providers.ImageRef) {
				must(t, h.world.Undefine(box.UID))
			},
			func(f findings) bool { return one(f.missing, "machine of sandbox default/box") },
		},
		{
			"a snapshot of no object",
			func(t *testing.T, _ *simulated, p providers.Provider, box *v1.Sandbox, _ providers.ImageRef) {
				_, err := p.TakeSnapshot(t.Context(), providers.SnapshotSpec{SnapshotRef: providers.SnapshotRef{Machine: box.UID, ID: planted}})
				must(t, err)
			},
			func(f findings) bool { return one(f.orphans, "snapshot") },
		},
		{
			"an image's revision that its object does not name",
			func(t *testing.T, h *simulated, p providers.Provider, _ *v1.Sandbox, image providers.ImageRef) {
				image.Revision = "forgotten"
				_, err := p.ImportImage(t.Context(), providers.ImageSpec{
					ImageRef: image, Name: "golden", Source: v1.ImageSource{Disk: &v1.DiskSource{Path: h.land.path("golden.qcow2")}},
				}, nil)
				must(t, err)
			},
			func(f findings) bool { return one(f.orphans, "@forgotten") },
		},
		{
			"an import that was given up",
			func(t *testing.T, h *simulated, p providers.Provider, _ *v1.Sandbox, image providers.ImageRef) {
				image.Revision = "half"
				d := newDeath(point{providerInside, 2})
				d.arm()
				h.world.OnStep(d.step)
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					_, _ = p.ImportImage(context.Background(), providers.ImageSpec{
						ImageRef: image, Name: "golden", Source: v1.ImageSource{Disk: &v1.DiskSource{Path: h.land.path("golden.qcow2")}},
					}, nil)
				}()
				<-ended
				h.world.OnStep(nil)
			},
			func(f findings) bool { return one(f.orphans, "@half") },
		},
		{
			"a build log of no image",
			func(t *testing.T, h *simulated, _ providers.Provider, _ *v1.Sandbox, _ providers.ImageRef) {
				must(t, os.MkdirAll(h.land.path("builds"), 0o700))
				must(t, os.WriteFile(filepath.Join(h.land.path("builds"), string(planted)+".log"), nil, 0o600))
			},
			func(f findings) bool { return one(f.orphans, "build log") },
		},
		{
			"a machine of another daemon that was powered off",
			func(t *testing.T, h *simulated, _ providers.Provider, _ *v1.Sandbox, _ providers.ImageRef) {
				must(t, h.world.Destroy(stranger))
			},
			func(f findings) bool { return one(f.foreign, string(stranger)) },
		},
		{
			"a machine of another daemon that was restarted",
			func(t *testing.T, h *simulated, _ providers.Provider, _ *v1.Sandbox, _ providers.ImageRef) {
				must(t, h.world.Crash(stranger))
				must(t, fake.New(h.world, v1.ProviderKVM, otherOne).Start(t.Context(), stranger))
			},
			func(f findings) bool { return one(f.foreign, "boot_id") },
		},
		{
			"a machine of nobody's that was removed",
			func(t *testing.T, h *simulated, _ providers.Provider, _ *v1.Sandbox, _ providers.ImageRef) {
				must(t, h.world.RemoveForeign(untagged))
			},
			func(f findings) bool { return one(f.foreign, "gone: machine "+string(untagged)) },
		},
		{
			"a machine that only looks like one of the daemon's and was removed",
			func(t *testing.T, h *simulated, _ providers.Provider, _ *v1.Sandbox, _ providers.ImageRef) {
				must(t, h.world.RemoveForeign(lookalike))
			},
			func(f findings) bool { return one(f.foreign, "gone: machine "+string(lookalike)) },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, err := simulate(t.TempDir())
			must(t, err)
			l := &life{host: h, journal: newJournal(), death: newDeath(point{}), lag: 2e6}
			l.plane, err = h.begin(l.death, l.journal)
			must(t, err)
			for _, d := range []deed{{create(goldenImage("golden")), isReady("golden")}, {create(sandbox("box")), isReady("box")}} {
				must(t, l.do(t.Context(), d))
			}
			var s scene
			must(t, s.objects(t.Context(), l.plane.client))
			must(t, l.plane.end()) // it would mend what is planted
			h.world.OnStep(nil)
			image := providers.ImageRef{UID: s.images[0].UID, Revision: s.images[0].Status.Revision}
			tt.plant(t, h, fake.New(h.world, v1.ProviderKVM, h.instance), &s.sandboxes[0], image)
			s.things, err = h.things(t.Context())
			must(t, err)
			s.others, err = h.others(t.Context())
			must(t, err)
			if f := audit(s, h.before); !tt.found(f) {
				t.Errorf("the audit says %v", f)
			}
		})
	}
}

// TestJournalFinds writes that are not in a store.
func TestJournalFinds(t *testing.T) {
	s, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	ctx, j := t.Context(), newJournal()
	m := &mortal{s, newDeath(point{}), j}
	key := func(name string) store.Key { return store.Key{Resource: "things", Name: name} }
	for _, name := range []string{"kept", "gone", "other", "back"} {
		if _, err := m.Put(ctx, key(name), []byte(name), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Delete(ctx, key("back"), store.AnyRevision); err != nil {
		t.Fatal(err)
	}
	if lost := j.lost(ctx, s); len(lost) > 0 {
		t.Fatalf("a whole store has lost %q", lost)
	}
	// Behind its back.
	_, gone := s.Delete(ctx, key("gone"), store.AnyRevision)
	_, other := s.Put(ctx, key("other"), []byte("else"), 3)
	_, back := s.Put(ctx, key("back"), []byte("back"), 0)
	if gone != nil || other != nil || back != nil {
		t.Fatal(gone, other, back)
	}
	if lost := j.lost(ctx, s); len(lost) != 3 {
		t.Errorf("lost: %q, want three", lost)
	}
}
