// Package fake is a hypervisor that exists in memory only: for fast tests, for
// benchmarks, and for trying sandboxd out without a hypervisor.
//
//	World                                    the host: it outlives providers
//	├─ machines   UID → machine              what the hypervisor has, ours and others'
//	│              └─ guest                  a small computer, while it is on
//	├─ networks   name → network             with leases
//	├─ ports      protocol, port → holders   host ports that are taken
//	└─ folders    instance → folder          the data folder of one daemon
//	               ├─ images   sealed, or staged by an import that has not ended
//	               └─ parts    UID → disk, seed, saved state, console log
//
//	New(world, …) ──▶ Provider ──▶ Close     a daemon comes and goes
//
// A restarted daemon is a new Provider of the same instance on the same World.
// The methods of World, such as Crash and LoseHypervisor, play everything else
// that happens on a host.
//
// A World is deterministic: it draws no random numbers, and time passes on the
// clock that it was given. It works inside a testing/synctest bubble. Calls that
// change something do so in steps, as a real provider does, and may be cut off
// between two of them (see OnStep), so everything that a crash can leave behind
// on a real host can be left behind here.
//
// Guests run a small shell and a few programs, see the package guest; nothing
// they do reaches the real host, except inside shared folders.
package fake

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// Latency is how long things take. Zero values mean no time at all: what
// follows then is done before the call that caused it returns.
type Latency struct {
	// Step of every call that changes something.
	Step time.Duration
	// Import of an image, besides reading a real file.
	Import time.Duration
	// Install of an operating system by an installer, from power-on until it
	// powers off.
	Install time.Duration
	// Boot from power-on until the agent is connected.
	Boot time.Duration
	// Shutdown of a guest that was asked to.
	Shutdown time.Duration
}

// Source is a disk image file that need not exist on the real host.
type Source struct {
	// SHA256 of the file, in lower-case hexadecimal.
	SHA256 string
	// Format of the file; empty means qcow2.
	Format v1.DiskFormat
	// VirtualSize of the disk, in bytes; 0 means 1 GiB.
	VirtualSize int64
	// Agentless guests never connect an agent.
	Agentless bool
}

// Options of a World. The zero value is a host on which nothing takes time.
type Options struct {
	// Clock of the host; nil means the real one.
	Clock clock.WithDelayedExecution
	// Latency of the host.
	Latency Latency
	// Source is asked for each disk that is imported, before the real file is
	// looked for; nil knows none.
	Source func(path string) (Source, bool)
	// Bridges of the host that machines may be connected to.
	Bridges []string
	// DownloadStall is how long the server of an image's source may send nothing;
	// default one minute.
	DownloadStall time.Duration
}

// Step is one change that a call is about to make.
type Step struct {
	// Verb is the method of providers.Provider.
	Verb string
	// Name of the step.
	Name string
	// ID of the machine or of the image.
	ID types.UID
}

// World is a simulated host. Its methods may be called from many goroutines.
type World struct {
	clock   clock.WithDelayedExecution
	latency Latency
	source  func(path string) (Source, bool)
	bridges []string
	stall   time.Duration
	locks   keyedLock

	mu       sync.Mutex
	onStep   func(Step)
	down     bool
	machines map[types.UID]*machine
	folders  map[providers.Instance]*folder
	networks map[string]*network
	ports    portTable
	subs     map[*subscription]struct{}
}

// folder is the data folder of one daemon.
type folder struct {
	images map[providers.ImageRef]*image
	staged map[providers.ImageRef]bool
	parts  map[types.UID]*parts
}

// NewWorld makes an empty host.
func NewWorld(o Options) *World {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Source == nil {
		o.Source = func(string) (Source, bool) { return Source{}, false }
	}
	return &World{
		clock: o.Clock, latency: o.Latency, source: o.Source, bridges: o.Bridges, stall: o.DownloadStall,
		machines: map[types.UID]*machine{},
		folders:  map[providers.Instance]*folder{},
		networks: map[string]*network{},
		ports:    newPortTable(),
		subs:     map[*subscription]struct{}{},
	}
}

// OnStep makes every call announce each of its steps before it is made; nil
// ends that. The hook may block, or end the goroutine by a panic or
// runtime.Goexit: then the call is cut off there, as by a crash of the daemon.
func (w *World) OnStep(hook func(Step)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.onStep = hook
}

// folder needs the lock.
func (w *World) folder(i providers.Instance) *folder {
	f, ok := w.folders[i]
	if !ok {
		f = &folder{
			images: map[providers.ImageRef]*image{},
			staged: map[providers.ImageRef]bool{},
			parts:  map[types.UID]*parts{},
		}
		w.folders[i] = f
	}
	return f
}

// Inventory lists everything that exists on the host, one line each, in order.
// It is empty when nothing was left behind.
func (w *World) Inventory() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	for id, m := range w.machines {
		add("machine %s of %q (%s)", id, m.tag, m.power)
	}
	for name := range w.networks {
		add("network %s", name)
	}
	for _, p := range w.ports.list() {
		add("port %s", p)
	}
	for instance, f := range w.folders {
		for ref := range f.images {
			add("image %s of %q", ref, instance)
		}
		for ref := range f.staged {
			add("staged image %s of %q", ref, instance)
		}
		for id, p := range f.parts {
			for _, kind := range p.kinds() {
				add("%s %s of %q", kind, id, instance)
			}
			for snap := range p.snapshots {
				add("snapshot %s of %s of %q", snap, id, instance)
			}
			for snap := range p.staged {
				add("staged snapshot %s of %s of %q", snap, id, instance)
			}
		}
	}
	slices.Sort(all)
	return all
}

// keyedLock is one lock per key, with waiting that a context can end.
type keyedLock struct {
	mu    sync.Mutex
	locks map[string]*waitable
}

type waitable struct {
	held  chan struct{} // holds one value while locked
	users int
}

// lock waits for the lock and returns what unlocks it.
func (k *keyedLock) lock(ctx context.Context, key string) (unlock func(), err error) {
	l := k.acquire(key)
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; k.release(key) }, nil
	case <-ctx.Done():
		k.release(key)
		return nil, ctx.Err()
	}
}

// tryLock is lock without waiting.
func (k *keyedLock) tryLock(key string) (unlock func(), ok bool) {
	l := k.acquire(key)
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; k.release(key) }, true
	default:
		k.release(key)
		return nil, false
	}
}

func (k *keyedLock) acquire(key string) *waitable {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.locks == nil {
		k.locks = map[string]*waitable{}
	}
	l, ok := k.locks[key]
	if !ok {
		l = &waitable{held: make(chan struct{}, 1)}
		k.locks[key] = l
	}
	l.users++
	return l
}

func (k *keyedLock) release(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := k.locks[key]; l.users == 1 {
		delete(k.locks, key)
	} else {
		l.users--
	}
}
