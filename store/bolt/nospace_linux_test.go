package bolt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sandboxd.dev/sandboxd/store"
	"sandboxd.dev/sandboxd/test/smalldisk"
)

func onSmallDisk(t *testing.T, size string, test func(t *testing.T, dir string)) {
	smalldisk.Run(t, size, func(t *testing.T, d smalldisk.Disk) { test(t, d.Dir) })
}

// TestDiskFull: on a full disk writes fail by ErrNoSpace and leave no trace,
// reads go on, and with room again so do writes.
func TestDiskFull(t *testing.T) {
	onSmallDisk(t, "4m", func(t *testing.T, dir string) {
		ballast := filepath.Join(dir, "ballast")
		if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); err != nil {
			t.Error(err)
			return
		}
		path := filepath.Join(dir, "store.db")
		s, err := Open(path, Options{})
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = s.Close() }()
		w, err := s.Watch(t.Context(), testKey("").Resource, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer w.Stop()

		acked := make(map[store.Key]string)
		revisions := int64(0)
		refused := 0
		put := func(name string, size int) {
			value := name + strings.Repeat("x", size)
			revision, err := s.Put(t.Context(), testKey(name), []byte(value), 0)
			switch {
			case err == nil:
				acked[testKey(name)] = value
				if revisions++; revision != revisions {
					t.Errorf("%s took revision %d, want %d", name, revision, revisions)
				}
				if event := <-w.Events(); event.Revision != revision {
					t.Errorf("got the event %d, want %d", event.Revision, revision)
				}
			case !errors.Is(err, store.ErrNoSpace) || !errors.Is(err, syscall.ENOSPC):
				t.Errorf("%s: %v, want ErrNoSpace", name, err)
			default:
				if want := "store " + path + ": no space left on the disk: nothing was written: make room and try again: "; !strings.HasPrefix(err.Error(), want) {
					t.Errorf("got %q, want %q", err, want)
				}
				refused++
			}
		}
		same := func(s *Store) {
			list, err := s.List(t.Context(), testKey("").Resource, "")
			if err != nil || list.Revision != revisions {
				t.Errorf("list at %d, %v, want %d", list.Revision, err, revisions)
			}
			got := make(map[store.Key]string)
			for _, e := range list.Entries {
				got[e.Key] = string(e.Value)
			}
			if diff := cmp.Diff(acked, got); diff != "" {
				t.Errorf("entries (-acknowledged +got):\n%s", diff)
			}
		}
		// Twice, so that it also fails with free pages in the file.
		for round := range 2 {
			for i := 0; refused < 20*(round+1) && i < 10_000; i++ {
				put(fmt.Sprintf("r%d-%d", round, i), i*37%9000)
			}
			if refused == 0 {
				t.Error("the disk never filled up")
				return
			}
			same(s)
			if err := os.Truncate(ballast, int64(1-round)<<19); err != nil {
				t.Error(err)
			}
			before := len(acked)
			for i := range 10 {
				put(fmt.Sprintf("room%d-%d", round, i), 3000)
			}
			if len(acked) != before+10 {
				t.Errorf("with room again %d of 10 writes succeeded", len(acked)-before)
			}
			same(s)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		again, err := Open(path, Options{})
		if err != nil {
			t.Error(err)
			return
		}
		same(again)
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestCreateOnFullDisk leaves nothing behind.
func TestCreateOnFullDisk(t *testing.T) {
	onSmallDisk(t, "64k", func(t *testing.T, dir string) {
		ballast := filepath.Join(dir, "ballast")
		if err := os.WriteFile(ballast, make([]byte, 60<<10), 0o600); err != nil {
			t.Error(err)
			return
		}
		path := filepath.Join(dir, "store.db")
		_, err := Open(path, Options{})
		if !errors.Is(err, syscall.ENOSPC) || !strings.HasPrefix(err.Error(), "store "+path+": cannot be created: no space left on the disk: make room and try again: ") {
			t.Errorf("got %v", err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("left are %v, %v, want the ballast", entries, err)
		}
		if err := os.Remove(ballast); err != nil {
			t.Error(err)
		}
		s, err := Open(path, Options{})
		if err != nil {
			t.Error(err)
			return
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestOpenOnFullDisk: a store that exists is served from a full disk, and can be
// backed up elsewhere; a backup or a restore that finds no space leaves all as it was.
func TestOpenOnFullDisk(t *testing.T) {
	smalldisk.Run(t, "8m", func(t *testing.T, d smalldisk.Disk) {
		path, elsewhere := filepath.Join(d.Dir, "store.db"), filepath.Join(t.TempDir(), "backup")
		s := mustOpen(t, path, Options{})
		for i := range 20 {
			mustPut(t, s, fmt.Sprint(i), strings.Repeat("x", 50<<10), 0)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		d.Fill(0)
		before := d.Names()
		s = mustOpen(t, path, Options{})
		list, err := s.List(t.Context(), testKey("").Resource, "")
		if err != nil || len(list.Entries) != 20 || list.Revision != 20 {
			t.Errorf("on a full disk it has %d entries at %d, %v", len(list.Entries), list.Revision, err)
		}
		backup := func(to string) error {
			f, err := os.Create(to)
			if err != nil {
				return err
			}
			return errors.Join(s.Backup(t.Context(), f), f.Close())
		}
		if err := backup(filepath.Join(d.Dir, "backup")); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("a backup onto the full disk: %v", err)
		}
		if err := os.Remove(filepath.Join(d.Dir, "backup")); err != nil {
			t.Error(err)
		}
		if err := backup(elsewhere); err != nil {
			t.Errorf("a backup elsewhere: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = Restore(elsewhere, path)
		if !errors.Is(err, store.ErrNoSpace) || !strings.Contains(err.Error(), d.Dir) {
			t.Errorf("a restore on the full disk: %v", err)
		}
		if after := d.Names(); !slices.Equal(before, after) {
			t.Errorf("left are %q, there were %q", after, before)
		}
		d.Empty()
		if aside, err := Restore(elsewhere, path); err != nil || aside == "" {
			t.Errorf("with room again: %q, %v", aside, err)
		}
		s = mustOpen(t, path, Options{})
		mustPut(t, s, "later", "x", 0)
	})
}
