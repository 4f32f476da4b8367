package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// users are everybody who writes manifests.
type users struct {
	*host
	random *rand.Rand
	// crowd is about how many sandboxes there are at a time.
	crowd int
	// sandboxes, snapshots and images that were made and, as far as is known, are.
	sandboxes []types.NamespacedName
	uids      map[string]types.UID
	snapshots []string
	of        map[string]string // a snapshot's sandbox
	images    []string
	serial    int
	made      int
	operation map[string]int
}

func newUsers(h *host, seed uint64, crowd int) *users {
	return &users{
		host: h, random: rand.New(rand.NewPCG(seed, 2)), crowd: crowd,
		uids: map[string]types.UID{}, of: map[string]string{}, operation: map[string]int{},
	}
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// try passes over what is the case when others were faster.
func (u *users) try(what string, err error) bool {
	u.operation[what]++
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return err == nil
	}
	u.t.Errorf("%s: %v", what, err)
	return false
}

func (u *users) name(kind string) string {
	u.serial++
	return fmt.Sprintf("%s-%d", kind, u.serial)
}

// create makes a sandbox, and has another go when there are many.
func (u *users) create() {
	sbx := &v1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: u.name("box")}}
	sbx.Spec.Image = pick(u.random, append([]string{"golden", "golden", "golden"}, u.images...)...)
	if u.random.IntN(500) == 0 {
		sbx.Spec.Image = "missing"
	}
	sbx.Spec.RestartPolicy = pick(u.random, v1.RestartAlways, v1.RestartAlways, v1.RestartOnFailure, v1.RestartNever)
	sbx.Spec.DiscardOnStop = u.random.IntN(8) == 0
	sbx.Spec.Network = u.network()
	if u.random.IntN(10) == 0 {
		sbx.Spec.SharedFolders = []v1.SharedFolder{{Name: "in", HostPath: u.dir + "/share"}}
	}
	if u.random.IntN(3) > 0 {
		sbx.Spec.Lifecycle.TTL = &metav1.Duration{Duration: time.Duration(10+u.random.IntN(170)) * time.Minute}
	}
	if u.random.IntN(6) == 0 {
		sbx.Spec.Lifecycle.IdleTimeout = &metav1.Duration{Duration: time.Duration(5+u.random.IntN(90)) * time.Minute}
	}
	if u.random.IntN(5) == 0 {
		sbx.Spec.Lifecycle.OnExpiry = v1.ExpiryStop
	}
	u.add(sbx)
	for len(u.sandboxes) > u.crowd {
		u.remove(u.random.IntN(len(u.sandboxes)))
	}
}

func (u *users) add(sbx *v1.Sandbox) {
	if !u.try("create sandbox", u.client.Create(context.Background(), sbx)) {
		return
	}
	u.made++
	u.sandboxes = append(u.sandboxes, client.ObjectKeyFromObject(sbx))
	u.uids[sbx.Name] = sbx.UID
}

func (u *users) remove(i int) {
	sbx := &v1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: u.sandboxes[i].Namespace, Name: u.sandboxes[i].Name}}
	u.try("delete sandbox", u.client.Delete(context.Background(), sbx))
	u.forget(i)
}

func (u *users) forget(i int) {
	delete(u.uids, u.sandboxes[i].Name)
	u.sandboxes = slices.Delete(u.sandboxes, i, i+1)
}

func (u *users) network() v1.Network {
	switch u.random.IntN(10) {
	case 0, 1, 2:
		return v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{{Name: "ssh", GuestPort: 22}}}
	case 3:
		return v1.Network{Mode: v1.NetworkIntnet, Name: pick(u.random, "red", "blue")}
	case 4:
		return v1.Network{Mode: v1.NetworkHostOnly}
	default:
		return v1.Network{Mode: v1.NetworkNone}
	}
}

// change patches some sandbox's spec.
func (u *users) change(what string, f func(*v1.Sandbox)) {
	if len(u.sandboxes) == 0 {
		return
	}
	i := u.random.IntN(len(u.sandboxes))
	sbx := &v1.Sandbox{}
	if err := u.client.Get(context.Background(), u.sandboxes[i], sbx); err != nil {
		u.try(what, err)
		u.forget(i) // its time was up
		return
	}
	before := sbx.DeepCopy()
	f(sbx)
	u.try(what, u.client.Patch(context.Background(), sbx, client.MergeFrom(before)))
}

func (u *users) power(s v1.PowerState) func() {
	return func() {
		u.change("power "+string(s), func(sbx *v1.Sandbox) { sbx.Spec.PowerState = s })
	}
}

// operate does one thing to something.
func (u *users) operate() {
	weighted(u.random, []choice{
		{14, u.power(v1.PowerRunning)},
		{10, u.power(v1.PowerStopped)},
		{6, u.power(v1.PowerSuspended)},
		{6, u.snapshot},
		{4, u.removeSnapshot},
		{6, u.revert},
		{8, u.fork},
		{1, u.promote},
		{1, u.addImage},
		{1, u.removeImage},
		{1, u.touchImage},
		{5, func() { u.change("change network", func(s *v1.Sandbox) { s.Spec.Network = u.network() }) }},
		{4, func() { u.change("change cpus", func(s *v1.Sandbox) { s.Spec.CPUs = int32(1 + u.random.IntN(4)) }) }},
		{2, func() {
			u.change("change restart policy", func(s *v1.Sandbox) { s.Spec.RestartPolicy = pick(u.random, v1.RestartAlways, v1.RestartNever) })
		}},
		{2, u.ask},
		{4, u.use},
	})
}

// ask asks for a disk that cannot be, or takes that back.
func (u *users) ask() {
	tiny := resource.MustParse("1Mi")
	u.change("ask for a tiny disk", func(s *v1.Sandbox) {
		if s.Spec.DiskSize == nil && s.Status.MachineID == "" {
			s.Spec.DiskSize = &tiny
		}
	})
}

func (u *users) use() {
	if len(u.sandboxes) > 0 {
		u.usage.Begin(u.uids[pick(u.random, u.sandboxes...).Name])()
		u.operation["use"]++
	}
}

func (u *users) snapshot() {
	if len(u.sandboxes) == 0 {
		return
	}
	of := pick(u.random, u.sandboxes...).Name
	snap := &v1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: u.name("snap")},
		Spec:       v1.SandboxSnapshotSpec{Sandbox: of, Memory: u.random.IntN(3) == 0},
	}
	if u.try("create snapshot", u.client.Create(context.Background(), snap)) {
		u.snapshots = append(u.snapshots, snap.Name)
		u.of[snap.Name] = of
	}
	for len(u.snapshots) > u.crowd/3 {
		u.removeSnapshot()
	}
}

func (u *users) removeSnapshot() {
	if len(u.snapshots) == 0 {
		return
	}
	i := u.random.IntN(len(u.snapshots))
	snap := &v1.SandboxSnapshot{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: u.snapshots[i]}}
	u.try("delete snapshot", u.client.Delete(context.Background(), snap))
	delete(u.of, u.snapshots[i])
	u.snapshots = slices.Delete(u.snapshots, i, i+1)
}

func (u *users) revert() {
	to := v1.SnapshotGolden
	if len(u.snapshots) > 0 && u.random.IntN(3) > 0 {
		to = pick(u.random, u.snapshots...)
	}
	u.change("revert", func(s *v1.Sandbox) {
		if to == v1.SnapshotGolden || u.of[to] == s.Name {
			s.Spec.RevertTo = &v1.RevertTo{Snapshot: to, Request: u.name("request")}
		}
	})
}

func (u *users) fork() {
	if len(u.snapshots) == 0 {
		return
	}
	snap := &v1.SandboxSnapshot{}
	name := pick(u.random, u.snapshots...)
	if err := u.client.Get(context.Background(), types.NamespacedName{Namespace: "default", Name: name}, snap); err != nil || snap.Status.Image == "" {
		return
	}
	sbx := &v1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: u.name("fork")}}
	sbx.Spec.Image, sbx.Spec.FromSnapshot = snap.Status.Image, name
	sbx.Spec.Lifecycle.TTL = &metav1.Duration{Duration: time.Duration(10+u.random.IntN(60)) * time.Minute}
	u.operation["fork"]++
	u.add(sbx)
}

func (u *users) image(name string, source v1.ImageSource) {
	img := &v1.GoldenImage{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.GoldenImageSpec{Source: source}}
	if u.try("create image", u.client.Create(context.Background(), img)) && name != "golden" {
		u.images = append(u.images, name)
	}
}

func disk(path string) v1.ImageSource { return v1.ImageSource{Disk: &v1.DiskSource{Path: path}} }

func (u *users) addImage() {
	u.image(u.name("image"), disk(pick(u.random, "golden.qcow2", "other-golden.qcow2")))
}

func (u *users) promote() {
	if len(u.sandboxes) == 0 {
		return
	}
	source := &v1.SandboxSource{Namespace: "default", Name: pick(u.random, u.sandboxes...).Name}
	if len(u.snapshots) > 0 {
		source.Snapshot = pick(u.random, u.snapshots...)
		source.Name = u.of[source.Snapshot]
	}
	u.operation["promote"]++
	u.image(u.name("promoted"), v1.ImageSource{Sandbox: source})
}

func (u *users) removeImage() {
	if len(u.images) < 3 {
		return
	}
	i := u.random.IntN(len(u.images))
	u.try("delete image", u.client.Delete(context.Background(), &v1.GoldenImage{ObjectMeta: metav1.ObjectMeta{Name: u.images[i]}}))
	u.images = slices.Delete(u.images, i, i+1)
}

// touchImage makes a new revision of the image that most sandboxes are of.
func (u *users) touchImage() {
	img := &v1.GoldenImage{}
	must(u.t, u.client.Get(context.Background(), types.NamespacedName{Name: "golden"}, img))
	before := img.DeepCopy()
	img.Spec.Source = disk(pick(u.random, "golden.qcow2", "other-golden.qcow2"))
	u.try("change image", u.client.Patch(context.Background(), img, client.MergeFrom(before)))
}

// choice is something to do, and how often among others.
type choice struct {
	weight int
	do     func()
}

func weighted(r *rand.Rand, choices []choice) {
	sum := 0
	for _, c := range choices {
		sum += c.weight
	}
	n := r.IntN(sum)
	for _, c := range choices {
		if n -= c.weight; n < 0 {
			c.do()
			return
		}
	}
}
