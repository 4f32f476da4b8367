// Package providers is the contract between the reconcilers and a hypervisor.
//
//	                 ┌────────────────────────────── Delete ───────────────┐
//	                 │                                                     ▼
//	Ensure ──▶ Off ──┴─ Start ──▶ (paused, network looked at) ──▶ Running ── … NotFound
//	            ▲ ▲                                                 │  │
//	            │ └──────────── Stop, or the guest powers off ──────┘  │
//	            └── Reset (Off only)        Saved ◀───── Suspend ──────┘
//	                                          └── Start ──▶ Running
//
// # Rules for every method
//
// A machine is named by the UID of its Sandbox, an image by the UID of its
// GoldenImage and a revision; whoever calls twice means the same thing. Every
// method is idempotent: called again after a crash at any point it finishes
// what was begun. Nothing is remembered outside the hypervisor and the
// provider's own data folder, so a new process picks up where the last left.
//
// Every error has one of the kinds of this package, or is the context's, or
// wraps the error of a reader or writer that the caller gave.
// "Absent" is ErrNotFound and means that absence was seen; a hypervisor that
// does not answer is ErrUnavailable. Providers do not retry beyond a hiccup of
// their own transport: the caller retries, with backoff.
//
// A machine that is not ours, made by other people or for another instance, is
// absent to every method but EnsureMachine, which answers ErrAlreadyExists and
// leaves it alone.
//
// Methods honour their context: they return its error soon after it ends, and
// whatever they leave half done is completed or removed by the next call.
// Called with a context that has ended, they do nothing. Methods may
// be called from many goroutines; calls on one machine are serialized by the
// provider. Except for ImportImage, the methods that
// write or read a machine's memory (Suspend, TakeSnapshot, RevertMachine) and the
// Guests methods, a call takes at most
// some seconds.
package providers

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// Provider drives one hypervisor.
type Provider interface {
	// Name is the provider's name in manifests.
	Name() v1.ProviderName

	// Probe asks the hypervisor for a sign of life and says what it is.
	// ErrUnavailable when it does not answer.
	Probe(ctx context.Context) (Info, error)

	Images
	Machines
	Snapshots
	Disks
	Guests
	Inventory

	// Events delivers changes as the hypervisor reports them, until the
	// context ends; then the channel is closed. It never fails: a provider
	// that lost its hypervisor keeps trying to reach it again, and delivers
	// EventResync once it has, because events in between are lost. Events are
	// hints to look again; their loss delays, but never breaks, anything.
	// It is called once.
	Events(ctx context.Context) <-chan Event

	// Close ends connections and forwards. Machines keep running. It may be
	// repeated; every other method answers ErrUnavailable from then on.
	Close() error
}

// Info describes a hypervisor.
type Info struct {
	// Version of the hypervisor, for people.
	Version string
	// Accelerator that new machines run with: "kvm", "tcg", or the
	// hypervisor's own word.
	Accelerator string
	// Notes are sentences worth telling the user once, such as why there is
	// no hardware acceleration.
	Notes []string
}

// EventType says what changed.
type EventType string

// The types of events.
const (
	// EventMachine: a machine was defined, removed, or changed its power state.
	EventMachine EventType = "Machine"
	// EventGuest: a guest's agent connected or disconnected.
	EventGuest EventType = "Guest"
	// EventResync: look at everything again.
	EventResync EventType = "Resync"
)

// Event is a hint that something changed.
type Event struct {
	Type EventType
	// ID of the machine; empty for EventResync.
	ID types.UID
}

// Set is the providers a daemon has.
type Set struct {
	providers map[v1.ProviderName]Provider
	def       v1.ProviderName
}

// NewSet makes a Set. def is the provider of images that name none.
func NewSet(def v1.ProviderName, providers ...Provider) *Set {
	s := &Set{providers: make(map[v1.ProviderName]Provider, len(providers)), def: def}
	for _, p := range providers {
		s.providers[p.Name()] = p
	}
	return s
}

// Resolve returns the name to use for an image that asks for name.
func (s *Set) Resolve(name v1.ProviderName) v1.ProviderName {
	if name == "" {
		return s.def
	}
	return name
}

// Get returns a provider; ErrUnsupported when this daemon does not have it.
func (s *Set) Get(name v1.ProviderName) (Provider, error) {
	p, ok := s.providers[s.Resolve(name)]
	if !ok {
		return nil, Errorf(ErrUnsupported, "provider "+string(s.Resolve(name)),
			"not served by this daemon: it serves %v", s.Names())
	}
	return p, nil
}

// Names lists the providers in order.
func (s *Set) Names() []v1.ProviderName {
	names := make([]v1.ProviderName, 0, len(s.providers))
	for n := range s.providers {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// All lists the providers in the order of Names.
func (s *Set) All() []Provider {
	all := make([]Provider, 0, len(s.providers))
	for _, n := range s.Names() {
		all = append(all, s.providers[n])
	}
	return all
}
