// Package store is the contract of sandboxd's object store: a small ordered
// map from keys to values with one revision for the whole store.
//
// # Model
//
// Every successful write takes the next revision, stamped in the transaction
// that writes it. The revision of an entry is that of its last write; a
// deletion takes a revision too. Two writes never share one, and a reader that
// has seen revision n has seen every write up to n.
//
//	revision   1        2        3        4
//	           put a    put b    put a    delete b
//	List at 4: a(3)
//	Watch after 2: put a(3, previous value of 1), delete b(4, previous of 2)
//
// # Consistency
//
// Writes are linearizable. Get and List read one consistent snapshot that
// includes every write acknowledged before the call, and nothing that is not on
// disk. A write is acknowledged only when it is on disk: after a crash it is
// there.
//
// Watch delivers every event after the given revision once, in revision order,
// and only after the write is on disk. The log behind it is bounded and kept in
// memory: a watch that starts too far back gets ErrCompacted and must list
// again, as must one that reads so slowly that it is dropped. ListAt shows the past
// by the same log: no past state is kept for anybody.
package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Limits of what a store takes. They are far above what the API server lets
// through: a name there has up to 253 characters, a request up to 3 MiB.
const (
	// MaxKeyPart is the greatest length of each part of a key, in bytes.
	MaxKeyPart = 1024
	// MaxValueSize is the greatest length of a value, in bytes.
	MaxValueSize = 8 << 20
)

// Key names an entry. Resource is a plural with its group, such as
// "sandboxes.sandboxd.dev" (or "namespaces" for the core group). Namespace is
// empty for cluster-scoped resources. No part may contain a zero byte or '/' or
// be longer than MaxKeyPart; Resource and Name must not be empty.
type Key struct {
	Resource  string
	Namespace string
	Name      string
}

// String formats the key for messages, as resource/namespace/name.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Resource + "/" + k.Name
	}
	return k.Resource + "/" + k.Namespace + "/" + k.Name
}

// Validate returns ErrInvalidKey, and why, when the key breaks a rule of Key.
func (k Key) Validate() error {
	if k.Name == "" {
		return fmt.Errorf("%w %q: the name is empty", ErrInvalidKey, k)
	}
	if err := validatePart("name", k.Name); err != nil {
		return err
	}
	return ValidateScope(k.Resource, k.Namespace)
}

// ValidateScope is Validate for the arguments of List and Watch: a resource and
// a namespace that may be empty.
func ValidateScope(resource, namespace string) error {
	if resource == "" {
		return fmt.Errorf("%w: the resource is empty", ErrInvalidKey)
	}
	if err := validatePart("resource", resource); err != nil {
		return err
	}
	return validatePart("namespace", namespace)
}

func validatePart(part, s string) error {
	if len(s) > MaxKeyPart {
		return fmt.Errorf("%w: the %s has %d bytes, at most %d are allowed",
			ErrInvalidKey, part, len(s), MaxKeyPart)
	}
	if strings.ContainsAny(s, "/\x00") {
		return fmt.Errorf("%w: the %s %q has a '/' or a zero byte", ErrInvalidKey, part, s)
	}
	return nil
}

// Entry is a value with its key and the revision of its last write. Value is
// shared with other readers: read only. It never changes, however long it is kept
// and whatever is written meanwhile, and what is appended to it goes elsewhere.
type Entry struct {
	Key      Key
	Value    []byte
	Revision int64
}

// EventType says what a write did.
type EventType int

// The types of events.
const (
	// Put created an entry or replaced its value.
	Put EventType = iota + 1
	// Delete removed an entry.
	Delete
)

// Event is one write. The slices are shared between watchers: read only.
type Event struct {
	Type EventType
	Key  Key
	// Value is the new value; nil for a deletion.
	Value []byte
	// Previous is the value before the write, and PreviousRevision that of the write
	// that put it there; nil and 0 for a creation.
	Previous         []byte
	PreviousRevision int64
	// Revision of the write.
	Revision int64
}

// Snapshot is the result of a List: entries ordered by namespace and name,
// and the store's revision at which they were read.
type Snapshot struct {
	Entries  []Entry
	Revision int64
}

// Watcher delivers events until it is stopped, its context ends, or it fails.
type Watcher interface {
	// Events delivers events in revision order. It is closed when the watch
	// ends; Err then says why.
	Events() <-chan Event
	// Err is nil after Stop or the end of the context, ErrSlowWatcher when the
	// reader fell too far behind, ErrClosed when the store was closed.
	Err() error
	// Stop ends the watch. It may be called more than once and from any
	// goroutine.
	Stop()
}

// AnyRevision makes Delete unconditional.
const AnyRevision int64 = -1

// The errors of a Store, to be tested with errors.Is.
var (
	// ErrNotFound: no entry of that key.
	ErrNotFound = errors.New("not found")
	// ErrExists: Put with ifRevision 0 found an entry.
	ErrExists = errors.New("already exists")
	// ErrConflict: the entry's revision is not the expected one.
	ErrConflict = errors.New("revision conflict")
	// ErrCompacted: the wanted revision is older than the watch log.
	ErrCompacted = errors.New("revision compacted")
	// ErrFutureRevision: the wanted revision has not been written yet.
	ErrFutureRevision = errors.New("revision is in the future")
	// ErrSlowWatcher: the reader of a watch fell too far behind.
	ErrSlowWatcher = errors.New("watcher too slow")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store closed")
	// ErrInvalidKey: a part of the key is empty, too long or has a forbidden
	// character.
	ErrInvalidKey = errors.New("invalid key")
	// ErrTooLarge: the value is longer than MaxValueSize.
	ErrTooLarge = errors.New("value too large")
	// ErrNoSpace: the disk is full. Nothing was written; the same write
	// succeeds once there is space.
	ErrNoSpace = errors.New("no space left on the disk")
)

// Store keeps entries. Its methods may be called from many goroutines. A
// context that ends while a write waits to be committed makes the call return
// the context's error; the write may or may not have happened, as with any
// remote store, and the caller reads again before it retries.
type Store interface {
	// InstanceID is a random UUID made when the store was created. It marks
	// everything that a daemon on this store makes on its hypervisors.
	InstanceID() string

	// Get returns the entry or ErrNotFound.
	Get(ctx context.Context, key Key) (Entry, error)

	// List returns the entries of a resource; of all namespaces when namespace
	// is empty. No entries is no error.
	List(ctx context.Context, resource, namespace string) (Snapshot, error)

	// ListAt returns what List returned when the store was at a revision. It goes
	// back exactly as far as Watch does: ErrCompacted when that is not far enough,
	// ErrFutureRevision when the revision has not been reached.
	ListAt(ctx context.Context, resource, namespace string, revision int64) (Snapshot, error)

	// Put writes a value and returns its revision. ifRevision 0 demands that
	// no entry exists (else ErrExists); any other demands that the entry has
	// that revision (else ErrConflict, or ErrNotFound when there is none). The
	// caller may reuse value's memory after the call.
	Put(ctx context.Context, key Key, value []byte, ifRevision int64) (int64, error)

	// Delete removes an entry and returns the revision of the deletion.
	// ifRevision is the revision the entry must have (else ErrConflict) or
	// AnyRevision. Without an entry it returns ErrNotFound.
	Delete(ctx context.Context, key Key, ifRevision int64) (int64, error)

	// Watch delivers the writes to a resource after a revision. Revision 0
	// means from now. It returns ErrCompacted when that is too far back and
	// ErrFutureRevision when it has not been reached.
	Watch(ctx context.Context, resource string, after int64) (Watcher, error)

	// Revision is the store's current revision.
	Revision() int64

	// Close waits for writes under way, ends all watches and releases the
	// store. Calls after it return ErrClosed, a second Close too; InstanceID
	// and Revision go on to tell what they told last.
	Close() error
}
