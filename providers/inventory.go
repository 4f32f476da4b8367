package providers

import (
	"context"

	"k8s.io/apimachinery/pkg/types"
)

// ResourceKind is a kind of thing that a provider makes.
type ResourceKind string

// The kinds of things.
const (
	ResourceMachine  ResourceKind = "machine"
	ResourceDisk     ResourceKind = "disk"
	ResourceSeed     ResourceKind = "seed"
	ResourceImage    ResourceKind = "image"
	ResourceNetwork  ResourceKind = "network"
	ResourceState    ResourceKind = "state"
	ResourceLog      ResourceKind = "log"
	ResourceFile     ResourceKind = "file"
	ResourceSnapshot ResourceKind = "snapshot"
)

// Ownership says whose a thing is.
type Ownership string

// The kinds of ownership.
const (
	// Ours: it bears our instance's full ID.
	Ours Ownership = "Ours"
	// Ambiguous: it looks like ours but does not say so in full. Never touched.
	Ambiguous Ownership = "Ambiguous"
)

// Resource is one thing on a hypervisor or in a provider's data folder.
type Resource struct {
	Kind ResourceKind
	// ID names it within its kind, stably; only the provider understands it.
	ID string
	// Owners are the UIDs of the objects it belongs to: it may be collected
	// when none of them exists. Empty means that nothing refers to it.
	Owners []types.UID
	// Ownership of it.
	Ownership Ownership
	// Description for people: a name or a path.
	Description string
}

// Inventory lists and removes things whose object is gone. Things of other
// instances and of other people are not listed.
type Inventory interface {
	// ListResources lists everything of this instance, in no order.
	ListResources(ctx context.Context) ([]Resource, error)

	// RemoveResource removes one thing that ListResources returned as Ours; a
	// machine as DeleteMachine does. It looks again before it touches anything:
	// what is not ours is ErrInvalid, what is gone is ErrNotFound, what others
	// depend on (a machine's disk, an image's clones) ErrBusy.
	RemoveResource(ctx context.Context, r Resource) error
}
