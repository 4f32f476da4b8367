package gitops

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"

	"sandboxd.dev/sandboxd/manifest"
)

// Options of a Source.
type Options struct {
	// Config reaches the API.
	Config *rest.Config
	// Dir is the directory, an absolute path. It need not exist yet.
	Dir string
	// Interval between two looks at it.
	Interval time.Duration
	// Prune: objects that leave the directory are deleted.
	Prune bool
	// PruneHold is how long many deletions at once wait.
	PruneHold time.Duration
	// Settle is the pause between two looks that must agree; 0 means a second, or
	// less with a short interval.
	Settle time.Duration
	Logger logr.Logger
}

// Source keeps the objects as one directory says.
type Source struct {
	o         Options
	id        string
	objects   dynamic.Interface
	partial   metadata.Interface
	served    discovery.DiscoveryInterface
	inventory *inventory
	tree      *Tree
	woken     chan struct{}
	asked     chan struct{}
	// patience bounds the rounds that others cause who change what is ours again
	// and again.
	patience flowcontrol.PassiveRateLimiter

	// What follows is the loop's.
	snapshot Snapshot
	// read: there is a snapshot.
	read bool
	// since is when the directory became as the snapshot is.
	since   time.Time
	records map[manifest.Identity]Record
	told    told

	mu     sync.Mutex
	status Status
	// round is closed when the next one has ended.
	round chan struct{}
}

// wakes is how many rounds may be woken at once, besides one each interval.
const wakes = 10

// New makes a Source. It does nothing until Run.
func New(o Options) (*Source, error) {
	if o.Settle == 0 {
		o.Settle = min(time.Second, o.Interval/4)
	}
	config := rest.CopyConfig(o.Config)
	config.UserAgent = FieldManager
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("manifests of %s: %w", o.Dir, err)
	}
	s := &Source{
		o: o, id: Identity(o.Dir), tree: NewTree(o.Dir, o.Settle),
		woken: make(chan struct{}, 1), asked: make(chan struct{}, 1), round: make(chan struct{}),
		patience: flowcontrol.NewTokenBucketPassiveRateLimiter(float32(1/o.Interval.Seconds()), wakes),
		records:  map[manifest.Identity]Record{},
		told:     told{},
	}
	s.status = Status{Dir: o.Dir, ID: s.id, Prune: PruneStatus{Enabled: o.Prune}}
	if err := s.connect(config, client); err != nil {
		return nil, fmt.Errorf("manifests of %s: %w", o.Dir, err)
	}
	return s, nil
}

func (s *Source) connect(config *rest.Config, client *http.Client) (err error) {
	if s.objects, err = dynamic.NewForConfigAndClient(config, client); err != nil {
		return err
	}
	if s.partial, err = metadata.NewForConfigAndClient(metadata.ConfigFor(config), client); err != nil {
		return err
	}
	if s.served, err = discovery.NewDiscoveryClientForConfigAndClient(config, client); err != nil {
		return err
	}
	s.inventory, err = newInventory(s.partial, s.id, s.wake)
	return err
}

// Identity of a directory: a label's value. Another path is another directory, so
// that a mistyped one prunes nothing of this one.
func Identity(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return "dir-" + hex.EncodeToString(sum[:8])
}

// wake has a round made soon.
func (s *Source) wake() { signal(s.woken) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is due anyway
	}
}

// Run applies the directory until the context ends.
func (s *Source) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer s.inventory.stop()
	defer cancel()
	if err := s.inventory.start(ctx); err != nil {
		return nil // it was stopped meanwhile
	}
	for ctx.Err() == nil {
		s.once(ctx)
		s.wait(ctx)
	}
	return nil
}

// gather is how long what wakes a round is gathered, so that many changes are one.
const gather = 300 * time.Millisecond

// wait returns when the next round is due.
func (s *Source) wait(ctx context.Context) {
	timer := time.NewTimer(s.pause())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-s.asked:
			return
		case <-s.woken:
			if s.patience.TryAccept() {
				_ = pause(ctx, gather)
				return
			}
		}
	}
}

// pause until the next round: the interval, or less when deletions are held until
// then.
func (s *Source) pause() time.Duration {
	held := time.Until(s.Status().Prune.Until)
	if held > 0 && held < s.o.Interval {
		return held
	}
	return s.o.Interval
}

// Sync has a round made now, and returns the status after it.
func (s *Source) Sync(ctx context.Context) (Status, error) {
	// The round that is under way may have read the directory before.
	for range 2 {
		s.mu.Lock()
		ended := s.round
		s.mu.Unlock()
		signal(s.asked)
		select {
		case <-ended:
		case <-ctx.Done():
			return Status{}, ctx.Err()
		}
	}
	return s.Status(), nil
}

// once is one round.
func (s *Source) once(ctx context.Context) {
	unread := s.look(ctx)
	if ctx.Err() != nil {
		return
	}
	plan := Decide(Input{
		Source: s.id, Files: s.snapshot.Files, Unread: unread, Live: s.inventory.live(), Records: s.records,
		Prune: s.o.Prune, Unchanged: time.Since(s.since), Hold: s.o.PruneHold,
	})
	done := s.act(ctx, plan)
	if ctx.Err() != nil {
		return // what failed, failed for that
	}
	s.tell(ctx, unread, plan, done)
}

// look reads the directory. What was read before stays in force while it cannot be
// read, but for pruning.
func (s *Source) look(ctx context.Context) error {
	now, err := s.tree.Look(ctx)
	if err != nil {
		s.since = time.Now()
		return err
	}
	if !s.read || now.Digest != s.snapshot.Digest {
		s.since = time.Now()
	}
	s.snapshot, s.read = now, true
	return nil
}
