package controller

import (
	"fmt"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/resource"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/capacity"
	"sandboxd.dev/sandboxd/controller/sandbox"
)

// news are what has changed in the controllers' cache since they were taken last. They
// are noted by functions that index the cache: nothing else is called while an object is
// put into it, before anybody can read it there. Handlers are told later, when a
// reconciler may have read it long since. Only what is missing when everything is listed
// again, after a watch was lost, has no index function called: of that a handler tells.
type news struct {
	mu sync.Mutex
	// names are sandboxes and images, and snapshots namespace/name.
	names     []capacity.Who
	snapshots []string
	// everybody: there was more than is worth a list.
	everybody bool

	// images are what matters to others of each image, and down which providers do not
	// answer, as both were when the news were taken last.
	images map[string]facts
	down   map[v1.ProviderName]bool
}

func newNews() *news { return &news{images: map[string]facts{}, down: map[v1.ProviderName]bool{}} }

// manyNews are so many that it is as well to look everything up.
const manyNews = 10_000

// indexNews is the index of sandboxes by the snapshots that they begin from.
const indexNews = "news"

func (n *news) ofSandbox(o any) ([]string, error) {
	sbx, ok := o.(*v1.Sandbox)
	if !ok {
		return nil, nil
	}
	n.note(whoIs(sbx))
	if sbx.Spec.FromSnapshot == "" {
		return nil, nil
	}
	return []string{sbx.Namespace + "/" + sbx.Spec.FromSnapshot}, nil
}

func (n *news) ofImage(o any) ([]string, error) {
	if img, ok := o.(*v1.GoldenImage); ok {
		n.note(whoIs(img))
	}
	return nil, nil
}

func (n *news) ofSnapshot(o any) ([]string, error) {
	if snap, ok := o.(*v1.SandboxSnapshot); ok {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.snapshots = append(n.snapshots, client.ObjectKeyFromObject(snap).String())
		n.bound()
	}
	return nil, nil
}

// follow notes what changes in the store of an informer that has not been started.
func (n *news) follow(informer toolscache.SharedIndexInformer, note toolscache.IndexFunc) error {
	if err := informer.AddIndexers(toolscache.Indexers{indexNews: note}); err != nil {
		return err
	}
	_, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{DeleteFunc: n.vanished})
	return err
}

// vanished has everybody looked up once something went unseen.
func (n *news) vanished(o any) {
	if _, unseen := o.(toolscache.DeletedFinalStateUnknown); unseen {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.names, n.snapshots, n.everybody = nil, nil, true
	}
}

func (n *news) note(who capacity.Who) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names = append(n.names, who)
	n.bound()
}

// bound keeps nothing of very many.
func (n *news) bound() {
	if len(n.names)+len(n.snapshots) > manyNews {
		n.names, n.snapshots, n.everybody = nil, nil, true
	}
}

func (n *news) take() (names []capacity.Who, snapshots []string, everybody bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	names, snapshots, everybody = n.names, n.snapshots, n.everybody
	n.names, n.snapshots, n.everybody = nil, nil, false
	return names, snapshots, everybody
}

// Changed implements capacity.Objects. It is not safe for concurrent use: the ledger
// does one thing at a time.
func (o *objects) Changed() (list []capacity.Who, everybody bool) {
	list, snapshots, everybody := o.news.take()
	for _, p := range o.providers.All() {
		if down := o.down(p.Name()); down != o.news.down[p.Name()] {
			o.news.down[p.Name()] = down
			everybody = true
		}
	}
	if everybody {
		clear(o.news.images)
		for _, item := range o.images.List() {
			if img, ok := item.(*v1.GoldenImage); ok {
				o.changedForOthers(img.Name)
			}
		}
		return nil, true
	}
	for _, who := range list {
		if who.Namespace == "" && o.changedForOthers(who.Name) {
			everybody = true // whoever is made of it: there are few images, and they change rarely
		}
	}
	for _, snap := range snapshots {
		forks, _ := o.sandboxes.ByIndex(indexNews, snap)
		for _, fork := range forks {
			if sbx, ok := fork.(*v1.Sandbox); ok {
				list = append(list, whoIs(sbx))
			}
		}
	}
	return list, everybody
}

// facts are what matters of an image to those that are made of it. Most that its status
// says does not, as how many there are of them.
type facts struct {
	exists bool
	// deleted is when its deletion began, in Unix seconds, 0 for never: who was there
	// before may still be made of it.
	deleted  int64
	key      capacity.Key
	provider v1.ProviderName
	needs    capacity.Amount
	sizes    string
}

// changedForOthers tells whether what matters of an image is not as it was when that was
// asked last.
func (o *objects) changedForOthers(image string) bool {
	var now facts
	if img := find[v1.GoldenImage](o.images, "", image); img != nil {
		var nobody v1.Sandbox
		now = facts{
			exists: true, provider: o.providerOf(nil, img),
			key:   sandbox.AdmissionKey(&nobody, img, nil),
			needs: sandbox.Need(&nobody, img, o.defaults),
		}
		var sizes strings.Builder
		for _, r := range img.Status.Revisions {
			fmt.Fprintln(&sizes, r.Revision, valueOf(r.VirtualSize))
		}
		now.sizes = sizes.String()
		if t := img.DeletionTimestamp; !t.IsZero() {
			now.deleted = t.Unix()
		}
	}
	before := o.news.images[image]
	if now.exists {
		o.news.images[image] = now
	} else {
		delete(o.news.images, image)
	}
	return now != before
}

func valueOf(q *resource.Quantity) int64 {
	if q == nil {
		return -1
	}
	return q.Value()
}
