package controller

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/capacity"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
)

// changing are objects in stores of which one after the other changes.
type changing struct {
	*objects
	rand *rand.Rand
	down bool
}

func newChanging(seed uint64) *changing {
	c := &changing{rand: rand.New(rand.NewPCG(seed, 0))}
	n := newNews()
	store := func(note toolscache.IndexFunc) toolscache.Indexer {
		return toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, toolscache.Indexers{indexNews: note})
	}
	c.objects = &objects{
		sandboxes: store(n.ofSandbox), images: store(n.ofImage), snapshots: store(n.ofSnapshot), news: n,
		providers: providers.NewSet(v1.ProviderKVM, fake.New(fake.NewWorld(fake.Options{}), v1.ProviderKVM, providers.Instance("i"))),
		down:      func(p v1.ProviderName) bool { return c.down && p == v1.ProviderKVM },
	}
	return c
}

func (c *changing) of(n int) string { return fmt.Sprint("o", c.rand.IntN(n)) }

// put changes one object, or removes it.
func (c *changing) put() {
	meta := func(n int) metav1.ObjectMeta {
		m := metav1.ObjectMeta{Namespace: "team", Name: c.of(n), Generation: c.rand.Int64N(3)}
		m.UID = types.UID(m.Name)
		m.CreationTimestamp = metav1.Unix(c.rand.Int64N(4), 0)
		if c.rand.IntN(6) == 0 {
			m.DeletionTimestamp = &metav1.Time{}
			*m.DeletionTimestamp = metav1.Unix(1+c.rand.Int64N(2), 0)
		}
		return m
	}
	ready := func() []metav1.Condition {
		status := func() metav1.ConditionStatus {
			return []metav1.ConditionStatus{metav1.ConditionTrue, metav1.ConditionFalse}[c.rand.IntN(2)]
		}
		return []metav1.Condition{{Type: v1.ConditionReady, Status: status()}, {Type: v1.ConditionImported, Status: status()}}
	}
	size := func() *resource.Quantity { return resource.NewQuantity(1+c.rand.Int64N(2), resource.BinarySI) }
	provider := []v1.ProviderName{"", v1.ProviderKVM, v1.ProviderVirtualBox}[c.rand.IntN(3)]
	var store toolscache.Indexer
	var o any
	switch c.rand.IntN(10) {
	case 0:
		c.down = !c.down
		return
	case 1, 2, 3:
		img := &v1.GoldenImage{ObjectMeta: meta(3)}
		img.Namespace = ""
		img.Status = v1.GoldenImageStatus{
			Conditions: ready(), Provider: provider, Revision: c.of(2), VirtualSize: size(), Clones: c.rand.Int32N(3),
			Revisions: []v1.ImageRevision{{Revision: "o0", VirtualSize: size()}},
		}
		store, o = c.images, img
	case 4, 5:
		snap := &v1.SandboxSnapshot{ObjectMeta: meta(3)}
		snap.Status.Conditions = ready()
		store, o = c.snapshots, snap
	default:
		sbx := &v1.Sandbox{ObjectMeta: meta(20)}
		sbx.Spec.Image = c.of(4)
		if c.rand.IntN(3) == 0 {
			sbx.Spec.FromSnapshot = c.of(4)
		}
		sbx.Status.Provider = provider
		if c.rand.IntN(2) == 0 {
			sbx.Status.ImageRevision = c.of(2)
		}
		store, o = c.sandboxes, sbx
	}
	change := store.Update
	if c.rand.IntN(5) == 0 {
		change = store.Delete
	}
	if err := change(o); err != nil {
		panic(err)
	}
}

// known is all that the ledger asks of an object.
type known struct {
	key      capacity.Key
	standing capacity.Standing
	exists   bool
	away     bool
}

func (c *changing) all() map[capacity.Who]known {
	all := map[capacity.Who]known{}
	for _, who := range c.Names() {
		k := known{key: c.Key(who), away: c.Away(who)}
		k.standing, k.exists = c.Standing(who)
		all[who] = k
	}
	return all
}

// TestNothingChangesUnnoticed: whatever changes, the ledger is told of everybody of whom it
// is told something else then.
func TestNothingChangesUnnoticed(t *testing.T) {
	told, few := 0, 0
	for seed := range uint64(50) {
		c := newChanging(seed)
		before := c.all()
		for range 100 {
			for range 1 + c.rand.IntN(2) {
				c.put()
			}
			list, everybody := c.Changed()
			if told++; !everybody {
				few++
			}
			after := c.all()
			names := slices.AppendSeq(slices.Collect(maps.Keys(before)), maps.Keys(after))
			for _, who := range names {
				if before[who] != after[who] && !everybody && !slices.Contains(list, who) {
					t.Fatalf("seed %d: nobody was told that %s is %+v, after %+v", seed, who, after[who], before[who])
				}
			}
			before = after
		}
		if list, everybody := c.Changed(); len(list) > 0 || everybody {
			t.Fatalf("seed %d: %v (everybody %v) are told of, and nothing has changed", seed, list, everybody)
		}
	}
	if few < told/3 {
		t.Errorf("everybody was looked up in all but %d of %d", few, told)
	}
}

// TestClonesAreNoNews: that an image has another clone has nobody looked up but itself.
func TestClonesAreNoNews(t *testing.T) {
	c := newChanging(0)
	img := &v1.GoldenImage{ObjectMeta: metav1.ObjectMeta{Name: "golden"}}
	for i := range int32(3) {
		img = img.DeepCopy()
		img.Status.Clones = i
		if err := c.images.Update(img); err != nil {
			t.Fatal(err)
		}
		if list, everybody := c.Changed(); everybody != (i == 0) || !slices.Contains(list, capacity.Who{Name: "golden"}) {
			t.Errorf("clone %d: %v are told of, everybody %v", i, list, everybody)
		}
	}
}

// TestImageThatIsBack: it went while everybody was looked up anyway, and is there again.
func TestImageThatIsBack(t *testing.T) {
	c := newChanging(0)
	img := &v1.GoldenImage{ObjectMeta: metav1.ObjectMeta{Name: "golden"}}
	for _, change := range []func(any) error{c.images.Add, func(o any) error { c.down = true; return c.images.Delete(o) }, c.images.Add} {
		if err := change(img); err != nil {
			t.Fatal(err)
		}
		if _, everybody := c.Changed(); !everybody {
			t.Error("those made of the image are not told of")
		}
	}
}

// listed is an API server that lists the same images to everybody, until they are changed
// and its watches end with that nobody can go on from where they were.
type listed struct {
	mu      sync.Mutex
	images  v1.GoldenImageList
	watches chan *watch.FakeWatcher
}

func (l *listed) set(version string, names ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.images = v1.GoldenImageList{ListMeta: metav1.ListMeta{ResourceVersion: version}}
	for _, name := range names {
		l.images.Items = append(l.images.Items, v1.GoldenImage{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "1"}})
	}
}

func (l *listed) List(metav1.ListOptions) (runtime.Object, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.images.DeepCopy(), nil
}

func (l *listed) Watch(metav1.ListOptions) (watch.Interface, error) {
	w := watch.NewFake()
	l.watches <- w
	return w, nil
}

// IsWatchListSemanticsUnSupported has the informer list.
func (l *listed) IsWatchListSemanticsUnSupported() bool { return true }

// TestMissingFromTheList: an image went while nobody watched, and is missing when all are
// listed again.
func TestMissingFromTheList(t *testing.T) {
	n := newNews()
	server := &listed{watches: make(chan *watch.FakeWatcher, 10)}
	server.set("1", "golden", "other")
	informer := toolscache.NewSharedIndexInformer(server, &v1.GoldenImage{}, 0, toolscache.Indexers{})
	if err := n.follow(informer, n.ofImage); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	defer running.Wait()
	defer close(stop)
	running.Go(func() { informer.Run(stop) })
	w := <-server.watches
	if !toolscache.WaitForCacheSync(stop, informer.HasSynced) {
		t.Fatal("the cache was never filled")
	}
	if names, _, everybody := n.take(); len(names) != 2 || everybody {
		t.Fatalf("%v are told of, everybody %v", names, everybody)
	}
	server.set("2", "other")
	w.Error(&apierrors.NewResourceExpired("too old").ErrStatus)
	<-server.watches
	for range 3000 {
		if _, _, everybody := n.take(); everybody {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("nobody is told of what is missing")
}

// TestVeryMuchNews is not kept.
func TestVeryMuchNews(t *testing.T) {
	c := newChanging(0)
	sbx := &v1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "s"}}
	for range 2 * manyNews {
		if err := c.sandboxes.Update(sbx); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(c.news.names); n > manyNews {
		t.Errorf("%d names are kept", n)
	}
	if _, everybody := c.Changed(); !everybody {
		t.Error("nobody is told that everybody may have changed")
	}
}
