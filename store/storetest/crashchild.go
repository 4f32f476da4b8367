package storetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"sandboxd.dev/sandboxd/store"
)

// How the parent speaks to the child that runs the same test.
const (
	envMode  = "SANDBOXD_STORETEST_MODE" // "write" or "create"
	envDir   = "SANDBOXD_STORETEST_DIR"
	envStart = "SANDBOXD_STORETEST_START" // writes done before, by worker
)

// runChild does what the parent asked for, until it is killed. Should the
// parent die first, the pipe breaks and ends the child.
func runChild(mode string, open func(dir string) (store.Store, error)) {
	report := os.NewFile(3, "report")
	say := func(format string, args ...any) error {
		_, err := fmt.Fprintf(report, format+"\n", args...) // one write: lines stay whole
		return err
	}
	var err error
	switch mode {
	case "write":
		err = childWrites(open, say)
	case "create":
		err = childCreates(open, say)
	default:
		err = fmt.Errorf("unknown mode %q", mode)
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", mode, err)
	os.Exit(1)
}

func childCreates(open func(dir string) (store.Store, error), say func(string, ...any) error) error {
	for i := 0; ; i++ {
		name := strconv.Itoa(i)
		dir := filepath.Join(os.Getenv(envDir), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		s, err := open(dir)
		if err != nil {
			return err
		}
		if err := say("%s %s", name, s.InstanceID()); err != nil {
			return err
		}
		if err := s.Close(); err != nil {
			return err
		}
	}
}

func childWrites(open func(dir string) (store.Store, error), say func(string, ...any) error) error {
	s, err := open(os.Getenv(envDir))
	if err != nil {
		return err
	}
	failed := make(chan error, crashWorkers+2)
	go func() { failed <- childWatches(s, say) }()
	go func() { failed <- childLists(s, say) }()
	for worker, done := range strings.Split(os.Getenv(envStart), ",") {
		n, err := strconv.Atoi(done)
		if err != nil {
			return err
		}
		go func() { failed <- childWorks(s, worker, n, say) }()
	}
	return <-failed
}

// childWorks does one write after the other.
func childWorks(s store.Store, worker, done int, say func(string, ...any) error) error {
	ctx := context.Background()
	for n := done + 1; ; n++ {
		name, remove := crashWrite(n)
		key := store.Key{Resource: crashResource, Namespace: crashNamespace(worker), Name: name}
		entry, err := s.Get(ctx, key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		var revision int64
		if remove {
			revision, err = s.Delete(ctx, key, entry.Revision)
		} else {
			revision, err = s.Put(ctx, key, crashValue(worker, n), entry.Revision)
		}
		if err != nil {
			return err
		}
		if err := say("ack %d %d %d", worker, n, revision); err != nil {
			return err
		}
	}
}

// childWatches reports each revision that a watcher gets to know.
func childWatches(s store.Store, say func(string, ...any) error) error {
	w, err := s.Watch(context.Background(), crashResource, 0)
	if err != nil {
		return err
	}
	for event := range w.Events() {
		if err := say("saw %d", event.Revision); err != nil {
			return err
		}
	}
	if errors.Is(w.Err(), store.ErrSlowWatcher) {
		select {} // the others go on
	}
	return w.Err()
}

// childLists reports each revision that a reader gets to know.
func childLists(s store.Store, say func(string, ...any) error) error {
	last := int64(0)
	for {
		snapshot, err := s.List(context.Background(), crashResource, crashNamespace(0))
		if err != nil {
			return err
		}
		if snapshot.Revision == last {
			time.Sleep(time.Millisecond) // the processors are for the writers
			continue
		}
		last = snapshot.Revision
		if err := say("saw %d", last); err != nil {
			return err
		}
	}
}

// What the workers write is a function of the worker and the number of the
// write, so that the parent knows it too.

const crashResource = "crash"

func crashNamespace(worker int) string { return "worker-" + strconv.Itoa(worker) }

// crashKeys is how many names each worker writes to, in turn. Every fifth time
// that a name has its turn it is deleted, the next time made again.
const crashKeys = 7

func crashWrite(n int) (name string, remove bool) {
	return strconv.Itoa(n % crashKeys), n/crashKeys%5 == 4
}

// crashValue differs between all writes. Most are small, some take pages.
func crashValue(worker, n int) []byte {
	head := fmt.Sprintf("worker %d write %d ", worker, n)
	size := n * 977 % 1000
	if n%16 == 0 {
		size *= 9
	}
	return []byte(head + strings.Repeat("x", size))
}

// stateAfter tells what the first n writes of a worker leave: names, and the
// number of the write that made each what it is.
func stateAfter(n int) map[string]int {
	state := make(map[string]int)
	for i := max(1, n-crashKeys+1); i <= n; i++ { // each name had a turn in these
		name, remove := crashWrite(i)
		if remove {
			delete(state, name)
		} else {
			state[name] = i
		}
	}
	return state
}
