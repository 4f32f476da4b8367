//go:build linux

package kvm

import (
	"bytes"
	"cmp"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/kvm/internal/domain"
)

const (
	machineA types.UID = "6253d238-8ffa-4c3a-ad45-3cb04de2eed4"
	machineB types.UID = "2f1c3a52-7a1e-4c2e-8f57-5e4f6d0c9b1a"
)

var goldenRef = providers.ImageRef{UID: "golden", Revision: "1"}

// world is a data folder with disks of real qcow2 files, of 1 MiB.
type world struct {
	*testing.T
	*Provider
}

func newWorld(t *testing.T) world {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("there is no qemu-img")
	}
	w := world{t, offline(t)}
	for _, dir := range []string{w.data.ImageDir(goldenRef.UID), w.data.layers(machineA), w.data.layers(machineB), w.data.snapshots(machineA)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.qemu("qemu-img", "create", "-q", "-f", "qcow2", w.data.image(goldenRef), "1M")
	return w
}

func (w world) qemu(name string, args ...string) {
	w.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		w.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// lay makes a disk or layer on a file.
func (w world) lay(path, on string) {
	w.Helper()
	w.qemu("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", on, path, "1M")
}

// write fills a sector of a disk or layer.
func (w world) write(path, pattern, at string) {
	w.Helper()
	w.qemu("qemu-io", "-f", "qcow2", "-c", "write -P "+pattern+" "+at+" 512", path)
}

// content of a disk or layer.
func (w world) content(path string) []byte {
	w.Helper()
	to := filepath.Join(w.TempDir(), "content")
	w.qemu("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, to)
	b, err := os.ReadFile(to)
	if err != nil {
		w.Fatal(err)
	}
	return b
}

func (w world) layerOf(id types.UID, n int) string { return w.data.layer(place{id, n}) }

func (w world) name(n int) {
	w.Helper()
	ref := providers.SnapshotRef{Machine: machineA, ID: machineB}
	text := `{"instance":"instance-1","layer":` + string(rune('0'+n)) + `,"snapshot":{"machine":"` + string(ref.Machine) + `","id":"` + string(ref.ID) + `"}}`
	if err := os.WriteFile(w.data.snapshot(ref), []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
}

func TestPlaceOf(t *testing.T) {
	l := newLayout("/data")
	for _, at := range []place{{machineA, 1}, {machineB, 9999}} {
		if got, ok := l.placeOf(l.layer(at)); !ok || got != at {
			t.Errorf("%s is %+v, %t", l.layer(at), got, ok)
		}
	}
	for _, path := range []string{
		"", "/data/machines/" + string(machineA) + "/disk.qcow2", "/data/machines/" + string(machineA) + "/layers/1.qcow2",
		"/data/machines/" + string(machineA) + "/layers/0000.qcow2", "/data/machines/" + string(machineA) + "/layers/-001.qcow2",
		"/data/machines/x/layers/0001.qcow2", "/data/machines/" + string(machineA) + "/layers/../layers/0001.qcow2",
		"/other/machines/" + string(machineA) + "/layers/0001.qcow2", "/data/machines/" + string(machineA) + "/layers/0001.qcow2/",
	} {
		if at, ok := l.placeOf(path); ok {
			t.Errorf("%q is taken for %+v", path, at)
		}
	}
}

// TestWalk: a disk lies on what it was made from, or it is refused.
func TestWalk(t *testing.T) {
	for name, tc := range map[string]struct {
		make   func(w world)
		layers []place
		kind   error
		reason string // DiskChanged if not said
	}{
		"an image":   {make: func(w world) { w.lay(w.data.disk(machineA), w.data.image(goldenRef)) }},
		"no disk":    {make: func(world) {}, kind: providers.ErrInvalid, reason: v1.ReasonDiskLost},
		"own layers": {func(w world) { w.stack(machineA); w.lay(w.data.disk(machineA), w.layerOf(machineA, 2)) }, []place{{machineA, 2}, {machineA, 1}}, nil, ""},
		"a layer that is gone": {func(w world) {
			w.lay(w.data.disk(machineA), w.layerOf(machineA, 1))
		}, nil, providers.ErrInvalid, v1.ReasonDiskLost},
		"a newer layer": {func(w world) {
			w.stack(machineA)
			w.lay(w.layerOf(machineA, 1), w.layerOf(machineA, 2))
			w.lay(w.data.disk(machineA), w.layerOf(machineA, 2))
		}, nil, providers.ErrInvalid, ""},
		"a layer of another machine": {func(w world) {
			w.stack(machineB)
			w.lay(w.data.disk(machineA), w.layerOf(machineB, 2))
		}, nil, providers.ErrInvalid, ""},
		"the layer that it was forked from": {func(w world) {
			w.stack(machineB)
			w.forked(2)
			w.lay(w.data.disk(machineA), w.layerOf(machineB, 2))
		}, []place{{machineB, 2}, {machineB, 1}}, nil, ""},
		"another layer of its origin": {func(w world) {
			w.stack(machineB)
			w.forked(2)
			w.lay(w.data.disk(machineA), w.layerOf(machineB, 1))
		}, nil, providers.ErrInvalid, ""},
		"another machine's disk": {func(w world) {
			w.lay(w.data.disk(machineB), w.data.image(goldenRef))
			w.lay(w.data.disk(machineA), w.data.disk(machineB))
		}, nil, providers.ErrInvalid, ""},
		"a file of the host": {func(w world) { w.lay(w.data.disk(machineA), "/etc/passwd") }, nil, providers.ErrInvalid, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tc.make(w)
			c, err := w.diskChain(machineA)
			if (tc.kind == nil) != (err == nil) || tc.kind != nil && !errors.Is(err, tc.kind) {
				t.Fatalf("%+v, %v", c, err)
			}
			if err != nil {
				if reason := cmp.Or(tc.reason, v1.ReasonDiskChanged); providers.ReasonOf(err) != reason {
					t.Errorf("the reason of %v is not %s", err, reason)
				}
				return
			}
			if !slices.Equal(c.layers, tc.layers) || c.image != goldenRef || c.size != 1<<20 || len(c.files) != len(c.layers)+2 {
				t.Errorf("%+v", c)
			}
		})
	}
}

// stack makes two layers, the second on the first.
func (w world) stack(id types.UID) {
	w.Helper()
	w.lay(w.layerOf(id, 1), w.data.image(goldenRef))
	w.lay(w.layerOf(id, 2), w.layerOf(id, 1))
}

func (w world) forked(layer int) {
	w.Helper()
	text := `{"machine":"` + string(machineB) + `","id":"` + string(machineA) + `","layer":` + string(rune('0'+layer)) + `}`
	if err := os.WriteFile(w.data.origin(machineA), []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
}

func TestSpareAndMergeable(t *testing.T) {
	use := func(n int, named, foreign bool, on ...string) layerUse {
		return layerUse{place{machineA, n}, named, on, foreign}
	}
	for name, tc := range map[string]struct {
		all   []layerUse
		spare int
		merge []int
	}{
		"nothing":                        {},
		"named":                          {all: []layerUse{use(1, true, false, "a"), use(2, true, false)}},
		"nobody's":                       {all: []layerUse{use(1, false, false, "2"), use(2, false, false)}, spare: 2, merge: []int{1}},
		"one lies on it":                 {all: []layerUse{use(1, true, false, "2"), use(2, false, false, "disk")}, merge: []int{2}},
		"two lie on it":                  {all: []layerUse{use(1, false, false, "2", "3"), use(2, true, false), use(3, true, false)}},
		"a fork above, none is merged":   {all: []layerUse{use(1, false, false, "2"), use(2, true, true, "disk", "fork")}},
		"a fork alone keeps a layer":     {all: []layerUse{use(1, false, true, "fork")}},
		"what is named stays though old": {all: []layerUse{use(1, true, false)}},
	} {
		u, ok := spare(tc.all)
		if ok != (tc.spare > 0) || u.layer != tc.spare {
			t.Errorf("%s: spare is %+v, %t", name, u, ok)
		}
		var merge []int
		for _, u := range mergeable(tc.all) {
			merge = append(merge, u.layer)
		}
		if !slices.Equal(merge, tc.merge) {
			t.Errorf("%s: %v can be merged, want %v", name, merge, tc.merge)
		}
	}
}

// TestTidy: layers that no snapshot names are merged, and no disk changes its
// content.
func TestTidy(t *testing.T) {
	w := newWorld(t)
	w.lay(w.layerOf(machineA, 1), w.data.image(goldenRef))
	w.write(w.layerOf(machineA, 1), "1", "0")
	w.lay(w.layerOf(machineA, 2), w.layerOf(machineA, 1))
	w.write(w.layerOf(machineA, 2), "2", "64k")
	w.lay(w.layerOf(machineA, 3), w.layerOf(machineA, 2))
	w.write(w.layerOf(machineA, 3), "3", "128k")
	w.lay(w.layerOf(machineA, 4), w.layerOf(machineA, 3)) // nothing lies on it
	w.lay(w.data.disk(machineA), w.layerOf(machineA, 3))
	w.write(w.data.disk(machineA), "4", "64k")
	w.name(2)
	disk, snapshot := w.content(w.data.disk(machineA)), w.content(w.layerOf(machineA, 2))
	if err := w.tidy(t.Context(), machineA); err != nil {
		t.Fatal(err)
	}
	c, err := w.diskChain(machineA)
	if err != nil || !slices.Equal(c.layers, []place{{machineA, 2}}) {
		t.Errorf("%+v, %v", c, err)
	}
	for _, n := range []int{1, 3, 4} {
		if files.Exists(w.layerOf(machineA, n)) {
			t.Errorf("layer %d is still there", n)
		}
	}
	if !bytes.Equal(w.content(w.data.disk(machineA)), disk) || !bytes.Equal(w.content(w.layerOf(machineA, 2)), snapshot) {
		t.Error("the content has changed")
	}
}

// TestTidyDamaged: what a damaged disk lies on is unknown, and stays.
func TestTidyDamaged(t *testing.T) {
	w := newWorld(t)
	w.lay(w.layerOf(machineA, 1), w.data.image(goldenRef))
	w.lay(w.layerOf(machineA, 2), w.layerOf(machineA, 1))
	if err := os.WriteFile(w.data.disk(machineA), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.tidy(t.Context(), machineA); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 2} {
		if !files.Exists(w.layerOf(machineA, n)) {
			t.Errorf("layer %d is gone", n)
		}
	}
	if err := os.Remove(w.data.disk(machineA)); err != nil {
		t.Fatal(err)
	}
	if err := w.tidy(t.Context(), machineA); err != nil {
		t.Fatal(err)
	}
	if files.Exists(w.layerOf(machineA, 1)) || files.Exists(w.layerOf(machineA, 2)) {
		t.Error("layers that nothing lies on stay")
	}
}

// TestPushLayer: the disk and its content are the same, and the layer is for
// reading only.
func TestPushLayer(t *testing.T) {
	w := newWorld(t)
	disk := w.data.disk(machineA)
	w.lay(disk, w.data.image(goldenRef))
	w.write(disk, "7", "4k")
	was := w.content(disk)
	for n := 1; n <= 2; n++ {
		c, err := w.diskChain(machineA)
		if err != nil {
			t.Fatal(err)
		}
		at, err := w.pushLayer(t.Context(), machineA, c)
		if err != nil || at != (place{machineA, n}) {
			t.Fatalf("%+v, %v", at, err)
		}
		info, err := os.Stat(w.data.layer(at))
		if err != nil || info.Mode().Perm() != 0o444 {
			t.Errorf("%v, %v", info, err)
		}
		if !bytes.Equal(w.content(disk), was) {
			t.Error("the content has changed")
		}
	}
	c, err := w.diskChain(machineA)
	if err != nil || len(c.layers) != 2 || strings.Join(c.files[1:3], " ") != w.layerOf(machineA, 2)+" "+w.layerOf(machineA, 1) {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestLostWhileItIsWorkedOn: a disk is lost when nobody works on it.
func TestLostWhileItIsWorkedOn(t *testing.T) {
	w := newWorld(t)
	m := machine{id: machineA, power: providers.PowerOff}
	for name, unmake := range map[string]func(){
		"lost":    func() { _ = os.Remove(w.data.disk(machineA)) },
		"damaged": func() { _ = os.WriteFile(w.data.disk(machineA), []byte("damaged"), 0o600) },
	} {
		unmake()
		told := func() bool { f := w.sightAlone(m).Files; return f.Lost != "" || f.Damaged != "" }
		if !told() {
			t.Errorf("a disk that is %s is not told of", name)
		}
		unlock, err := w.locks.Lock(t.Context(), machineObject(machineA))
		if err != nil {
			t.Fatal(err)
		}
		if told() {
			t.Errorf("a disk that is worked on is %s", name)
		}
		unlock()
	}
}

func TestSameHardware(t *testing.T) {
	live := func(edit func(*domain.Live)) domain.Live {
		l := domain.Live{Accelerator: domain.TCG}
		l.Record.Hashes = providers.Hashes{Hardware: "h", Network: "n", Forwards: "f", Seed: "s"}
		edit(&l)
		return l
	}
	for name, tc := range map[string]struct {
		edit func(*domain.Live)
		want bool
	}{
		"nothing":     {func(*domain.Live) {}, true},
		"forwards":    {func(l *domain.Live) { l.Record.Hashes.Forwards = "other" }, true},
		"seed":        {func(l *domain.Live) { l.Record.Hashes.Seed = "other" }, true},
		"hardware":    {func(l *domain.Live) { l.Record.Hashes.Hardware = "other" }, false},
		"network":     {func(l *domain.Live) { l.Record.Hashes.Network = "other" }, false},
		"accelerator": {func(l *domain.Live) { l.Accelerator = domain.KVM }, false},
	} {
		if got := sameHardware(live(func(*domain.Live) {}), live(tc.edit)); got != tc.want {
			t.Errorf("%s has changed: %t", name, got)
		}
	}
}
