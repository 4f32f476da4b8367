package bolt_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"sandboxd.dev/sandboxd/store"
	"sandboxd.dev/sandboxd/store/bolt"
)

// mapped is how many bytes of a file are in this process's memory.
func mapped(t *testing.T, path string) (sum int) {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	of := false
	for line := range strings.Lines(string(maps)) {
		switch fields := strings.Fields(line); {
		case strings.Contains(fields[0], "-"):
			of = fields[len(fields)-1] == path
		case of && fields[0] == "Rss:":
			kb, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			sum += kb << 10
		}
	}
	return sum
}

// TestTrim checks that the pages of the file leave the memory, and that nothing
// else happens, while others write.
func TestTrim(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir()) // the kernel tells the whole of the path
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "store.db")
	s, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	const count = 64
	key := func(i int) store.Key { return store.Key{Resource: "things", Name: fmt.Sprint("t", i)} }
	value := bytes.Repeat([]byte("v"), 64<<10)
	for i := range count {
		if _, err := s.Put(t.Context(), key(i), value, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = bolt.Open(path, bolt.Options{}); err != nil {
		t.Fatal(err)
	}
	before := mapped(t, path)
	if before < count*len(value) {
		t.Fatalf("opening a store maps %d bytes of it only: there is nothing to see", before)
	}
	if err := s.Trim(); err != nil {
		t.Fatal(err)
	}
	if after := mapped(t, path); after > before/10 {
		t.Errorf("%d of %d bytes are still in memory", after, before)
	}
	var writing sync.WaitGroup
	for i := range count {
		writing.Go(func() {
			if _, err := s.Put(t.Context(), key(i), append(value, 'w'), int64(i+1)); err != nil {
				t.Error(err)
			}
		})
		if err := s.Trim(); err != nil {
			t.Error(err)
		}
	}
	writing.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Trim(); !errors.Is(err, store.ErrClosed) {
		t.Errorf("a closed store is trimmed: %v", err)
	}
	if s, err = bolt.Open(path, bolt.Options{}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for i := range count {
		if e, err := s.Get(t.Context(), key(i)); err != nil || len(e.Value) != len(value)+1 {
			t.Errorf("%v: %d bytes, %v", key(i), len(e.Value), err)
		}
	}
}
