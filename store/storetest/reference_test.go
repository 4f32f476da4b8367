package storetest

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"sandboxd.dev/sandboxd/store"
)

// logEvents is what the reference store keeps of each resource.
const logEvents = 64

// reference is the simplest store that keeps the contract: a map, a lock and a
// journal. It shows that the suite asks for no more than the contract, and each
// of its bugs, of which at most one is switched on, that the suite asks for
// no less.
type reference struct {
	bug string

	mu       sync.Mutex
	journal  *os.File
	closed   bool
	instance string
	revision int64
	entries  map[store.Key]store.Entry
	logs     map[string][]store.Event
	floors   map[string]int64 // of logs that have dropped events
	opened   int64
	watchers map[*refWatcher]bool
}

// journalLine is a write, without the value that follows it, or the store's
// birth.
type journalLine struct {
	Instance string          `json:",omitempty"`
	Type     store.EventType `json:",omitempty"`
	Key      store.Key
	Revision int64
	Size     int
}

func openReference(dir, bug string) (*reference, error) {
	s := &reference{
		bug: bug, entries: map[store.Key]store.Entry{}, logs: map[string][]store.Event{},
		floors: map[string]int64{}, watchers: map[*refWatcher]bool{},
	}
	path := filepath.Join(dir, "journal")
	if err := s.replay(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var err error
	if s.journal, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return nil, err
	}
	if s.instance == "" || bug == "new instance when reopened" {
		s.instance = uuid.NewString()
		if bug == "all stores are one" {
			s.instance = "11111111-1111-4111-8111-111111111111"
		}
		if bug != "birth is not written" {
			s.write(journalLine{Instance: s.instance}, nil)
		}
	}
	s.opened = s.revision
	return s, nil
}

func (s *reference) replay(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	r := bufio.NewReader(f)
	for end := int64(0); ; {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return os.Truncate(path, end) // a torn last line
		}
		var l journalLine
		if err := json.Unmarshal(line, &l); err != nil {
			return err
		}
		value := make([]byte, l.Size)
		if _, err := io.ReadFull(r, value); err != nil {
			return os.Truncate(path, end) // a torn last value
		}
		end += int64(len(line) + l.Size)
		s.redo(l, value)
	}
}

func (s *reference) redo(l journalLine, value []byte) {
	if l.Instance != "" {
		s.instance = l.Instance
		return
	}
	if l.Type == store.Put {
		s.entries[l.Key] = store.Entry{Key: l.Key, Value: value, Revision: l.Revision}
	} else if s.bug != "deletion is not written" {
		delete(s.entries, l.Key)
	}
	s.revision = l.Revision
	if s.bug == "revision of what is left" {
		s.revision = 0
		for _, entry := range s.entries {
			s.revision = max(s.revision, entry.Revision)
		}
	}
}

func (s *reference) write(l journalLine, value []byte) {
	line, err := json.Marshal(l)
	if err == nil {
		_, err = s.journal.Write(append(append(line, '\n'), value...))
	}
	if err == nil {
		err = s.journal.Sync()
	}
	if err != nil {
		panic(err)
	}
}

func (s *reference) InstanceID() string { return s.instance }

func (s *reference) Revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revision
}

// yield lets others in between, where a bug forgets the lock.
func (s *reference) yield() {
	s.mu.Unlock()
	time.Sleep(rand.N(100 * time.Microsecond))
	s.mu.Lock()
}

func (s *reference) Get(ctx context.Context, key store.Key) (store.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entry, found := s.entries[key]
	switch {
	case s.closed && s.bug != "get after close":
		return store.Entry{}, store.ErrClosed
	case s.validate(key) != nil:
		return store.Entry{}, s.validate(key)
	case ctx.Err() != nil:
		return store.Entry{}, ctx.Err()
	case !found && s.bug != "absent is empty":
		return store.Entry{}, store.ErrNotFound
	}
	return s.shared(entry), nil
}

// shared is an entry as readers get it: nothing can be appended to what others
// see.
func (s *reference) shared(entry store.Entry) store.Entry {
	if s.bug != "room behind values" {
		entry.Value = slices.Clip(entry.Value)
	}
	return entry
}

func (s *reference) validate(key store.Key) error {
	switch {
	case s.bug == "slashes in names" && strings.Contains(key.Name, "/"):
		return nil
	case s.bug == "short names only" && len(key.Name) > 255:
		return store.ErrInvalidKey
	}
	return key.Validate()
}

func (s *reference) List(ctx context.Context, resource, namespace string) (store.Snapshot, error) {
	if err := errors.Join(store.ValidateScope(resource, namespace), ctx.Err()); err != nil {
		return store.Snapshot{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.Snapshot{}, store.ErrClosed
	}
	snapshot := store.Snapshot{Revision: s.revision}
	if s.bug == "torn list" {
		s.yield()
	}
	for key, entry := range s.entries {
		in := key.Resource == resource && (namespace == "" || key.Namespace == namespace)
		switch s.bug {
		case "resources by prefix":
			in = strings.HasPrefix(key.Resource, resource) && (namespace == "" || key.Namespace == namespace)
		case "namespaces by prefix":
			in = key.Resource == resource && strings.HasPrefix(key.Namespace, namespace)
		}
		if in {
			snapshot.Entries = append(snapshot.Entries, s.shared(entry))
		}
	}
	slices.SortFunc(snapshot.Entries, func(a, b store.Entry) int {
		if s.bug == "list by name" {
			return cmp.Compare(a.Key.Name, b.Key.Name)
		}
		return cmp.Or(cmp.Compare(a.Key.Namespace, b.Key.Namespace), cmp.Compare(a.Key.Name, b.Key.Name))
	})
	return snapshot, nil
}

// ListAt folds the log backwards: the oldest event comes last, and wins.
func (s *reference) ListAt(ctx context.Context, resource, namespace string, revision int64) (store.Snapshot, error) {
	snapshot, err := s.List(ctx, resource, namespace)
	if err != nil {
		return snapshot, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if revision > snapshot.Revision {
		return store.Snapshot{}, store.ErrFutureRevision
	}
	if revision < max(s.opened, s.floors[resource]) && s.bug != "past without end" {
		return store.Snapshot{}, store.ErrCompacted
	}
	state := map[store.Key]store.Entry{}
	for _, e := range snapshot.Entries {
		state[e.Key] = e
	}
	for _, e := range slices.Backward(s.logs[resource]) {
		if e.Revision > revision && (namespace == "" || e.Key.Namespace == namespace) {
			s.undo(state, e)
		}
	}
	snapshot = store.Snapshot{Entries: slices.Collect(maps.Values(state)), Revision: revision}
	slices.SortFunc(snapshot.Entries, func(a, b store.Entry) int {
		return cmp.Or(cmp.Compare(a.Key.Namespace, b.Key.Namespace), cmp.Compare(a.Key.Name, b.Key.Name))
	})
	return snapshot, nil
}

func (s *reference) undo(state map[store.Key]store.Entry, e store.Event) {
	delete(state, e.Key)
	if e.PreviousRevision == 0 || s.bug == "the deleted stay gone" && e.Type == store.Delete {
		return
	}
	at := e.PreviousRevision
	if s.bug == "the past at today's revision" {
		at = e.Revision
	}
	state[e.Key] = store.Entry{Key: e.Key, Value: e.Previous, Revision: at}
}

func (s *reference) Put(ctx context.Context, key store.Key, value []byte, ifRevision int64) (int64, error) {
	if len(value) > store.MaxValueSize && s.bug != "no size limit" {
		return 0, store.ErrTooLarge
	}
	if s.bug != "keeps the caller's value" {
		value = append(make([]byte, 0, len(value)+1), value...)
	}
	return s.change(ctx, key, store.Event{Type: store.Put, Key: key, Value: value}, func(old store.Entry) error {
		switch {
		case old.Revision == ifRevision:
			return nil
		case old.Revision == 0 && s.bug == "update of nothing creates":
			return nil
		case old.Revision == 0:
			return store.ErrNotFound
		case ifRevision == 0 && s.bug == "creation overwrites":
			return nil
		case ifRevision == 0:
			return store.ErrExists
		case s.bug == "stale update" && ifRevision > 0 && ifRevision < old.Revision,
			s.bug == "put at any revision" && ifRevision == store.AnyRevision,
			s.bug == "every third revision" && s.revision%3 == 2:
			return nil
		}
		return store.ErrConflict
	})
}

func (s *reference) Delete(ctx context.Context, key store.Key, ifRevision int64) (int64, error) {
	return s.change(ctx, key, store.Event{Type: store.Delete, Key: key}, func(old store.Entry) error {
		switch {
		case old.Revision == 0:
			return store.ErrNotFound
		case s.bug == "stale deletion" && ifRevision > 0 && ifRevision < old.Revision:
			return nil
		case ifRevision != store.AnyRevision && ifRevision != old.Revision:
			return store.ErrConflict
		}
		return nil
	})
}

// change is a write: admit holds its condition against what is there.
func (s *reference) change(ctx context.Context, key store.Key, e store.Event, admit func(store.Entry) error) (int64, error) {
	if err := s.validate(key); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil && s.bug != "writes when cancelled" {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, store.ErrClosed
	}
	old := s.entries[key]
	if err := admit(old); err != nil {
		switch s.bug {
		case "failure takes a revision":
			s.revision++
		case "failure makes an event":
			s.publish(e)
		}
		return 0, err
	}
	if s.bug == "no lock between check and write" {
		s.yield()
	}
	if s.bug != "deletion takes no revision" || e.Type == store.Put {
		s.revision++
	}
	e.Revision = s.revision
	if s.bug == "updates in place" && len(e.Value) == len(old.Value) {
		copy(old.Value, e.Value)
	}
	if old.Revision > 0 && s.bug != "no previous value" {
		e.Previous, e.PreviousRevision = old.Value, old.Revision
	}
	if s.bug == "empty is nil" && len(e.Value) == 0 {
		e.Value = nil
	}
	l := journalLine{Type: e.Type, Key: key, Revision: e.Revision, Size: len(e.Value)}
	if s.bug == "answers before it writes" {
		go func() { // and dies, with bad luck
			s.mu.Lock()
			defer s.mu.Unlock()
			s.write(l, e.Value)
		}()
	} else if s.bug != "forgets writes" || s.revision%2 == 0 {
		s.write(l, e.Value)
	}
	if e.Type == store.Put {
		s.entries[key] = store.Entry{Key: key, Value: e.Value, Revision: e.Revision}
	} else if s.bug != "deletion only says so" {
		delete(s.entries, key)
	}
	if s.bug == "publishes without the lock" {
		s.yield()
	}
	s.publish(e)
	return e.Revision, nil
}
