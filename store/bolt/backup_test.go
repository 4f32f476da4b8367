package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sandboxd.dev/sandboxd/store"
)

// TestBackup: a copy made while others write opens as a store, the same one, as
// it was at one moment after the call.
func TestBackup(t *testing.T) {
	path := filled(t)
	s := mustOpen(t, path, Options{})
	w, err := s.Watch(t.Context(), testKey("").Resource, s.Revision())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	state := make(map[store.Key]store.Entry)
	list, err := s.List(t.Context(), testKey("").Resource, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Entries {
		state[e.Key] = e
	}
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			name := fmt.Sprintf("new-%d", i)
			if _, err := s.Put(context.Background(), testKey(name), []byte(name), 0); err != nil {
				done <- err
				return
			}
			<-w.Events()
			state[testKey(name)] = store.Entry{Key: testKey(name), Value: []byte(name), Revision: list.Revision + int64(i) + 1}
		}
	}()
	restored := filepath.Join(t.TempDir(), "store.db")
	var before, after int64
	for range 3 {
		f, err := os.Create(restored)
		if err != nil {
			t.Fatal(err)
		}
		before = s.Revision()
		if err := errors.Join(s.Backup(t.Context(), f), f.Close()); err != nil {
			t.Fatal(err)
		}
		after = s.Revision() + 1 // one may be on disk and not published yet
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}

	r := mustOpen(t, restored, Options{})
	if r.InstanceID() != s.InstanceID() {
		t.Errorf("the copy is instance %s, want %s", r.InstanceID(), s.InstanceID())
	}
	if r.Revision() < before || r.Revision() > after {
		t.Errorf("the copy is at revision %d, the store went from %d to %d meanwhile", r.Revision(), before, after)
	}
	got, err := r.List(t.Context(), testKey("").Resource, "")
	if err != nil {
		t.Fatal(err)
	}
	copied := make(map[store.Key]store.Entry)
	for _, e := range got.Entries {
		copied[e.Key] = e
	}
	for key, e := range state {
		if e.Revision > r.Revision() {
			delete(state, key)
		}
	}
	if diff := cmp.Diff(state, copied); diff != "" {
		t.Errorf("the copy (-want +got):\n%s", diff)
	}
	mustPut(t, r, "goes on", "x", 0)
}

// TestBackupEnds with its context, with the store and with its writer.
func TestBackupEnds(t *testing.T) {
	s := mustOpen(t, filled(t), Options{})
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Backup(over, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is over: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := s.Backup(ctx, writerFunc(func(b []byte) (int, error) { cancel(); return len(b), nil }))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	full := errors.New("the tape is full")
	err = s.Backup(t.Context(), writerFunc(func([]byte) (int, error) { return 0, full }))
	if err == nil || !strings.Contains(err.Error(), "the backup is incomplete: ") || !strings.Contains(err.Error(), full.Error()) {
		t.Errorf("with a writer that fails: %v", err)
	}
	var copied bytes.Buffer
	if err := s.Backup(t.Context(), &copied); err != nil {
		t.Errorf("afterwards: %v", err)
	}

	writing, closed := make(chan struct{}), make(chan error, 1)
	go func() {
		<-writing
		closed <- s.Close()
	}()
	err = s.Backup(t.Context(), writerFunc(func(b []byte) (int, error) {
		select {
		case <-writing:
		default:
			close(writing)
			<-s.closing
		}
		return len(b), nil
	}))
	if !errors.Is(err, store.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("close during a backup: %v", err)
	}
	if err := s.Backup(t.Context(), io.Discard); !errors.Is(err, store.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
