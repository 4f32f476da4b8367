package controller_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller"
	"sandboxd.dev/sandboxd/controller/capacity"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/providers/fault"
)

const mi = int64(1) << 20

// unit is the memory of the sandboxes of these tests.
const unit = 256 * mi

// roomFor is a host with memory for so many sandboxes at a time, and enough of all else.
func roomFor(n int64) controller.Capacity {
	return limited(capacity.Amount{
		capacity.Memory: n * unit, capacity.CPUs: capacity.Unlimited,
		capacity.Disk: capacity.Unlimited, capacity.Sandboxes: capacity.Unlimited,
	})
}

func limited(a capacity.Amount) controller.Capacity {
	return controller.Capacity{Budget: func(func(types.UID) capacity.Amount) (_, _ capacity.Amount, _ error) { return a, a, nil }}
}

// witness sees on the host itself that never more machines run than there is room for.
type witness struct {
	providers.Provider
	*crowd
}

type crowd struct {
	mu    sync.Mutex
	room  int
	most  int
	known map[types.UID]bool
}

func (w witness) EnsureMachine(ctx context.Context, spec providers.MachineSpec) error {
	w.mu.Lock()
	w.known[spec.ID] = true
	w.mu.Unlock()
	return w.Provider.EnsureMachine(ctx, spec)
}

func (w witness) Start(ctx context.Context, id types.UID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.Provider.Start(ctx, id)
	running := 0
	for id := range w.known {
		if m, err := w.GetMachine(context.Background(), id); err == nil && m.Power != providers.PowerOff && m.Power != providers.PowerSaved {
			running++
		}
	}
	w.most = max(w.most, running)
	return err
}

// crowded is a host with room for so many sandboxes, whose daemon looks at nothing that
// it is not woken for.
func crowded(t *testing.T, room int) (*daemon, *crowd) {
	t.Helper()
	d := host(t, fake.Options{})
	d.capacity, d.resync = roomFor(int64(room)), time.Hour
	c := &crowd{room: room, known: map[types.UID]bool{}}
	d.wrap = func(p providers.Provider) providers.Provider { return witness{p, c} }
	t.Cleanup(func() {
		if c.most > room {
			t.Errorf("%d machines ran at a time, and there is room for %d", c.most, room)
		}
	})
	return d, c
}

func several(n int, change ...func(*v1.Sandbox)) []*v1.Sandbox {
	list := make([]*v1.Sandbox, n)
	for i := range list {
		list[i] = newSandbox(fmt.Sprintf("s%02d", i), change...)
	}
	return list
}

func (d *daemon) createAll(list []*v1.Sandbox) {
	d.t.Helper()
	for _, s := range list {
		d.create(s)
	}
}

// says waits for a sandbox to wait for a reason, in words that have a text in them.
func (d *daemon) says(s *v1.Sandbox, reason, text string) {
	d.t.Helper()
	until(d, s, "waiting for "+text, func(s *v1.Sandbox) bool {
		c, r := condition(s, v1.ConditionAdmitted), condition(s, v1.ConditionReady)
		return c.Status == metav1.ConditionFalse && c.Reason == reason && strings.Contains(c.Message, text) &&
			r.Reason == reason && r.Message == c.Message && s.Status.Phase == v1.SandboxPending
	})
}

// TestCapacityIsGivenInOrder: sandboxes that are made together run one after the other,
// in order, each as soon as one before it has gone.
func TestCapacityIsGivenInOrder(t *testing.T) {
	d, _ := crowded(t, 2)
	d.start()
	list := several(6)
	d.createAll(list) // they all wait for the image, and are woken together
	for _, s := range list {
		until(d, s, "waiting for the image", because(v1.ConditionReady, v1.ReasonImageNotFound))
	}
	d.create(goldenImage("golden"))
	for i := range list {
		if i >= 2 {
			d.remove(list[i-2])
		}
		until(d, list[i], "ready", ready)
		c := condition(list[i], v1.ConditionAdmitted)
		if c.Status != metav1.ConditionTrue || c.Reason != v1.ReasonReserved || c.Message != "reserved: 256Mi memory, 1 cpu and 1Gi disk" {
			t.Errorf("%s: %+v", list[i].Name, c)
		}
		if i == 0 {
			until(d, list[1], "ready", ready)
			d.says(list[2], v1.ReasonCapacity, "needs 256Mi memory, 0Ki of 512Mi free")
			d.says(list[3], v1.ReasonCapacity, "needs 256Mi memory, 0Ki of 512Mi free, and waits behind default/s02, which needs 256Mi memory")
		}
		for _, later := range list[max(i+1, 2):] {
			must(t, d.client.Get(t.Context(), client.ObjectKeyFromObject(later), later))
			if later.Status.MachineID != "" {
				t.Errorf("%s was made before its turn", later.Name)
			}
		}
	}
}

// TestCapacityIsReleased: whatever ends the use of memory has the next one started at
// once, and what waited says since when.
func TestCapacityIsReleased(t *testing.T) {
	for name, end := range map[string]func(*daemon, *v1.Sandbox){
		"stopped":   func(d *daemon, s *v1.Sandbox) { d.power(s, v1.PowerStopped) },
		"suspended": func(d *daemon, s *v1.Sandbox) { d.power(s, v1.PowerSuspended) },
		"deleted":   func(d *daemon, s *v1.Sandbox) { d.remove(s) },
		"shut down by its guest": func(d *daemon, s *v1.Sandbox) {
			must(d.t, d.world.ShutDownGuest(s.UID))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, _ := crowded(t, 1)
			d.start()
			first := newSandbox("first", func(s *v1.Sandbox) { s.Spec.RestartPolicy = v1.RestartOnFailure })
			second := newSandbox("second")
			d.create(goldenImage("golden"), first)
			until(d, first, "ready", ready)
			d.create(second)
			d.says(second, v1.ReasonCapacity, "needs 256Mi memory, 0Ki of 256Mi free")
			waited := condition(second, v1.ConditionAdmitted).LastTransitionTime
			end(d, first)
			until(d, second, "ready", ready)
			if c := condition(second, v1.ConditionAdmitted); c.LastTransitionTime.Before(&waited) {
				t.Errorf("admitted at %v, after it waited since %v", c.LastTransitionTime, waited)
			}
		})
	}
}

func (d *daemon) power(s *v1.Sandbox, p v1.PowerState) {
	d.update(s, func(s *v1.Sandbox) { s.Spec.PowerState = p })
}

// TestAskingForLess lets a sandbox go on that waited, and those that waited behind it.
func TestAskingForLess(t *testing.T) {
	d, _ := crowded(t, 4)
	d.start()
	large := func(s *v1.Sandbox) { s.Spec.Memory = resource.NewQuantity(3*unit, resource.BinarySI) }
	first, second, third := newSandbox("a", large), newSandbox("b", large), newSandbox("c")
	d.create(goldenImage("golden"), first)
	until(d, first, "ready", ready)
	d.create(second)
	d.says(second, v1.ReasonCapacity, "needs 768Mi memory, 256Mi of 1Gi free")
	d.create(third)
	d.says(third, v1.ReasonWaitingInLine, "needs 256Mi memory, and waits behind default/b, which needs 768Mi memory")
	d.update(second, func(s *v1.Sandbox) { s.Spec.Memory = resource.NewQuantity(unit/2, resource.BinarySI) })
	until(d, second, "ready", ready)
	d.says(third, v1.ReasonCapacity, "needs 256Mi memory, 128Mi of 1Gi free") // told what is so now
	d.power(second, v1.PowerStopped)
	until(d, third, "ready", ready)
}

// TestMoreThanThereIs is nothing that waiting helps with.
func TestMoreThanThereIs(t *testing.T) {
	d, _ := crowded(t, 4)
	d.start()
	s := newSandbox("s", func(s *v1.Sandbox) { s.Spec.Memory = resource.NewQuantity(64<<30, resource.BinarySI) })
	d.create(goldenImage("golden"), s, newSandbox("other"))
	until(d, s, "stalled", because(v1.ConditionStalled, v1.ReasonCapacity))
	const want = "sandbox default/s: needs 64Gi memory, and this host has 1Gi for sandboxes at all: ask for less, or raise capacity.memory"
	if got := condition(s, v1.ConditionStalled).Message; got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
	until(d, newSandbox("other"), "ready", ready)
	d.update(s, func(s *v1.Sandbox) { s.Spec.Memory = nil })
	until(d, s, "ready", ready)
}

// TestChangedWhileItRuns: the memory of a machine that runs is what is reserved, and
// the next start needs the new one.
func TestChangedWhileItRuns(t *testing.T) {
	d, _ := crowded(t, 3)
	d.start()
	s, other := newSandbox("s"), newSandbox("other")
	d.create(goldenImage("golden"), s, other)
	until(d, s, "ready", ready)
	until(d, other, "ready", ready)
	d.update(s, func(s *v1.Sandbox) { s.Spec.Memory = resource.NewQuantity(3*unit, resource.BinarySI) })
	until(d, s, "to be restarted", because(v1.ConditionDrifted, v1.ReasonRestartRequired))
	if got := s.Status.Reserved.Memory.Value(); got != unit {
		t.Errorf("%d is reserved while it runs, want %d", got, unit)
	}
	d.stop()
	d.start() // which knows it from the status
	until(d, s, "looked at", ready)
	if got := s.Status.Reserved.Memory.Value(); got != unit {
		t.Errorf("%d is reserved after a restart, want %d", got, unit)
	}
	d.power(s, v1.PowerStopped)
	until(d, s, "off", because(v1.ConditionPoweredOn, v1.ReasonStopped))
	d.power(s, v1.PowerRunning)
	d.says(s, v1.ReasonCapacity, "needs 768Mi memory, 512Mi of 768Mi free")
	d.remove(other)
	until(d, s, "ready", ready)
}

// TestMachinesThatRunAreLeftAlone: a daemon with less capacity than what runs stops
// nothing, and starts nothing before there is room.
func TestMachinesThatRunAreLeftAlone(t *testing.T) {
	d, c := crowded(t, 3)
	d.start()
	list := several(4)
	d.create(goldenImage("golden"))
	d.createAll(list)
	for _, s := range list[:3] {
		until(d, s, "ready", ready)
	}
	d.says(list[3], v1.ReasonCapacity, "0Ki of 768Mi free")
	d.stop()
	d.capacity = roomFor(2)
	d.start()
	for _, s := range list[:3] {
		until(d, s, "ready", ready)
		if s.Status.Restarts != 0 {
			t.Errorf("%s was restarted", s.Name)
		}
	}
	d.says(list[3], v1.ReasonCapacity, "needs 256Mi memory, 0Ki of 512Mi free")
	d.remove(list[0])
	d.says(list[3], v1.ReasonCapacity, "needs 256Mi memory, 0Ki of 512Mi free")
	d.remove(list[1])
	until(d, list[3], "ready", ready)
	if c.most > 3 {
		t.Errorf("%d ran", c.most)
	}
}

// TestDiskIsKeptWhileOff: a stopped machine keeps its disk, and a suspended one room for
// its memory besides, or it goes on running.
func TestDiskIsKeptWhileOff(t *testing.T) {
	d := host(t, fake.Options{})
	d.resync = time.Hour
	budget := capacity.NoLimit()
	budget[capacity.Disk] = 2<<30 + unit
	d.capacity = limited(budget)
	d.start()
	a, b, c := newSandbox("a"), newSandbox("b"), newSandbox("c")
	d.create(goldenImage("golden"), a, b)
	until(d, a, "ready", ready)
	until(d, b, "ready", ready)
	d.power(a, v1.PowerSuspended)
	until(d, a, "suspended", because(v1.ConditionPoweredOn, v1.ReasonSuspended))
	if got := a.Status.Reserved.Disk.Value(); got != 1<<30+unit || a.Status.Reserved.Memory != nil {
		t.Errorf("reserved while suspended: %+v", a.Status.Reserved)
	}
	d.power(b, v1.PowerSuspended)
	until(d, b, "waiting to be suspended", func(s *v1.Sandbox) bool {
		c := condition(s, v1.ConditionAdmitted)
		return c.Message == "needs 256Mi disk, 0Ki of 2.2Gi free" && condition(s, v1.ConditionPoweredOn).Status == metav1.ConditionTrue
	})
	d.power(b, v1.PowerStopped)
	until(d, b, "stopped", because(v1.ConditionPoweredOn, v1.ReasonStopped))
	d.create(c)
	d.says(c, v1.ReasonCapacity, "needs 1Gi disk, 0Ki of 2.2Gi free")
	d.power(a, v1.PowerRunning)
	until(d, a, "ready", ready)
	d.says(c, v1.ReasonCapacity, "needs 1Gi disk, 256Mi of 2.2Gi free")
	d.remove(b)
	until(d, c, "ready", ready)
}

// TestBuildsWaitInTheSameLine: the machine that builds an image takes what a sandbox
// would, and in its turn.
func TestBuildsWaitInTheSameLine(t *testing.T) {
	d, _ := crowded(t, 1)
	d.start()
	first, behind := newSandbox("first"), newSandbox("later")
	d.create(goldenImage("golden"), first)
	until(d, first, "ready", ready)
	img := builtImage("built", script("one", "echo hello"))
	d.create(img)
	until(d, img, "waiting", func(img *v1.GoldenImage) bool {
		c := condition(img, v1.ConditionReady)
		return c.Reason == v1.ReasonCapacity && c.Message == "the machine that builds it needs 256Mi memory, 0Ki of 256Mi free" && img.Status.Phase == v1.ImagePending
	})
	time.Sleep(time.Until(img.CreationTimestamp.Add(time.Second))) // creations are known to the second
	d.create(behind)
	d.says(behind, v1.ReasonCapacity, "waits behind image built")
	d.remove(first)
	until(d, img, "ready", ready)
	until(d, behind, "ready", ready) // what the build took was released
	if img.Status.Build.Reserved != nil {
		t.Errorf("reserved after the build: %+v", img.Status.Build.Reserved)
	}
}

// TestCapacityOfProvidersIsTriedAgain: what the hypervisor says it has too little of is
// shown in its words.
func TestCapacityOfProvidersIsTriedAgain(t *testing.T) {
	d := host(t, fake.Options{})
	var full atomic.Bool
	full.Store(true)
	d.wrap = func(p providers.Provider) providers.Provider { return scarce{p, &full} }
	d.start()
	s := newSandbox("s")
	d.create(goldenImage("golden"), s)
	until(d, s, "told", because(v1.ConditionReady, v1.ReasonCapacity))
	if got := condition(s, v1.ConditionReady).Message; !strings.HasSuffix(got, "cannot set up guest memory 'pc.ram': Cannot allocate memory") {
		t.Errorf("it says %q", got)
	}
	full.Store(false)
	until(d, s, "ready", ready)
}

// scarce is a hypervisor that has no memory left.
type scarce struct {
	providers.Provider
	full *atomic.Bool
}

func (s scarce) Start(ctx context.Context, id types.UID) error {
	if s.full.Load() {
		return providers.Errorf(providers.ErrCapacity, "machine "+string(id), "cannot set up guest memory 'pc.ram': Cannot allocate memory")
	}
	return s.Provider.Start(ctx, id)
}

// TestCapacityWhenKilled kills the daemon at calls of the provider all over the lives of
// sandboxes that take turns, and demands that all of them get theirs and that never more
// run than there is room for.
func TestCapacityWhenKilled(t *testing.T) {
	takeTurns := func(t *testing.T, death *fault.Death) {
		d, _ := crowded(t, 2)
		whole := d.wrap
		d.wrap = func(p providers.Provider) providers.Provider { return fault.Wrap(whole(p), death.Hook) }
		d.start()
		list := several(5)
		d.create(goldenImage("golden"))
		d.createAll(list)
		dead, left := false, slices.Clone(list)
		for deadline := time.Now().Add(patience); len(left) > 0; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d never had their turn: %s", len(left), show(left[0]))
			}
			select {
			case <-death.Died():
				if !dead {
					dead = true
					d.wrap = whole
					d.stop()
					d.start()
				}
			default:
			}
			left = slices.DeleteFunc(left, func(s *v1.Sandbox) bool {
				err := d.client.Get(context.Background(), client.ObjectKeyFromObject(s), s)
				if err == nil && ready(s) {
					_ = d.client.Delete(context.Background(), s)
				}
				return apierrors.IsNotFound(err)
			})
		}
	}
	count := fault.NewDeath(0)
	takeTurns(t, count)
	points := count.Points()
	if points < 15 {
		t.Fatalf("only %d points", points)
	}
	step := max(points/24, 1)
	if testing.Short() || raced {
		step = max(points/6, 1)
	}
	for n := int64(1); n <= points; n += step {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			takeTurns(t, fault.NewDeath(n))
		})
	}
}

// TestManyInParallel: many at once, all of whom get their turn.
func TestManyInParallel(t *testing.T) {
	d, c := crowded(t, 3)
	d.start()
	list := several(30)
	d.create(goldenImage("golden"))
	d.createAll(list)
	for _, s := range list[:3] {
		until(d, s, "ready beside the others", ready)
	}
	left := slices.Clone(list)
	d.eventually("all had their turn", func() error {
		left = slices.DeleteFunc(left, func(s *v1.Sandbox) bool {
			if err := d.client.Get(t.Context(), client.ObjectKeyFromObject(s), s); err != nil || !ready(s) {
				return false
			}
			return client.IgnoreNotFound(d.client.Delete(t.Context(), s)) == nil
		})
		if len(left) > 0 {
			return fmt.Errorf("%d wait, the first of them so: %s", len(left), show(left[0]))
		}
		return nil
	})
	for _, s := range list {
		d.gone(s)
	}
	if c.most != 3 {
		t.Errorf("%d ran at a time, and there is room for 3", c.most)
	}
}

// TestALongLineIsWrittenLittleOf: of those far back in line nothing is written while
// others have their turn.
func TestALongLineIsWrittenLittleOf(t *testing.T) {
	d, _ := crowded(t, 1)
	d.start()
	list := several(40)
	d.create(goldenImage("golden"))
	d.createAll(list)
	until(d, list[0], "ready", ready)
	for i, s := range list[1:] {
		if i < 10 {
			d.says(s, v1.ReasonCapacity, "0Ki of 256Mi free")
		} else {
			d.says(s, v1.ReasonWaitingInLine, "waits behind default/"+list[i].Name)
		}
	}
	writes, seen := map[string]int{}, map[string]bool{}
	var mu sync.Mutex
	var now v1.SandboxList
	must(t, d.client.List(t.Context(), &now))
	watch, err := d.client.Watch(t.Context(), &v1.SandboxList{}, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: now.ResourceVersion}})
	must(t, err)
	defer watch.Stop()
	go func() {
		for e := range watch.ResultChan() {
			if s, ok := e.Object.(*v1.Sandbox); ok {
				mu.Lock()
				writes[s.Name]++
				seen[s.Name] = ready(s)
				mu.Unlock()
			}
		}
	}()
	const turns = 5
	for i := range turns {
		d.remove(list[i])
		until(d, list[i+1], "ready", ready)
		d.says(list[i+2], v1.ReasonCapacity, "needs 256Mi memory, 0Ki of 256Mi free")
	}
	d.eventually("all seen, up to the one that runs now", func() error {
		mu.Lock()
		defer mu.Unlock()
		if !seen[list[turns].Name] {
			return fmt.Errorf("%s was written %d times, and not seen to be ready", list[turns].Name, writes[list[turns].Name])
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	for _, s := range list[turns+12:] {
		if writes[s.Name] > 0 {
			t.Errorf("%s, far back in line, was written %d times", s.Name, writes[s.Name])
		}
	}
}
