package bolt

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// TestFileStopsGrowing: writing the same entries over and over takes no more
// room than they did after a few rounds, and nor do entries that come and go.
func TestFileStopsGrowing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := mustOpen(t, path, Options{})
	if size := fileSize(t, path); size > 64<<10 {
		t.Errorf("an empty store takes %d bytes", size)
	}
	const entries = 100
	var revisions [entries]int64
	round := func(n int) {
		var writers sync.WaitGroup // many at once, to be quick about it
		for i := range revisions {
			writers.Go(func() {
				value := make([]byte, i*n*37%2000)
				revision, err := s.Put(t.Context(), testKey(fmt.Sprint(i)), value, revisions[i])
				if err != nil {
					t.Error(err)
				}
				revisions[i] = revision
			})
		}
		writers.Wait()
		passing := fmt.Sprintf("passing-%d", n)
		if _, err := s.Delete(t.Context(), testKey(passing), mustPut(t, s, passing, passing, 0)); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 5 {
		round(n)
	}
	early := fileSize(t, path)
	for n := range 40 {
		round(n)
	}
	if late := fileSize(t, path); late > early+growBy {
		t.Errorf("the file grew from %d to %d bytes", early, late)
	}
}

// TestBackupHoldsUpNobody: not even writes that let the file grow many times
// over, for which bbolt would wait until the backup's transaction is done.
func TestBackupHoldsUpNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := mustOpen(t, path, Options{})
	mustPut(t, s, "a", "x", 0)
	writing, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		first := true
		done <- s.Backup(t.Context(), writerFunc(func(b []byte) (int, error) {
			if first {
				first = false
				close(writing)
				<-goOn
			}
			return len(b), nil
		}))
	}()
	<-writing
	for i := range 40 {
		mustPut(t, s, fmt.Sprint(i), strings.Repeat("x", 1<<20), 0)
	}
	if _, err := s.List(t.Context(), testKey("").Resource, ""); err != nil {
		t.Error(err)
	}
	if size := fileSize(t, path); size < 40<<20 {
		t.Errorf("the file has %d bytes, the test means to let it grow", size)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
