package audit_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sandboxd.dev/sandboxd/audit"
)

func open(t *testing.T, path string, change ...func(*audit.Options)) *audit.Log {
	t.Helper()
	o := audit.Options{Path: path, MaxSize: 1000, MaxFiles: 3, Failed: func(err error, line []byte) { t.Errorf("%s: %v", line, err) }}
	for _, f := range change {
		f(&o)
	}
	l, err := audit.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// read returns the lines of all files, the oldest first.
func read(t *testing.T, path string, files int) []string {
	t.Helper()
	var all []string
	for i := files - 1; i >= 0; i-- {
		name := path
		if i > 0 {
			name = fmt.Sprintf("%s.%d", path, i)
		}
		raw, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")...)
	}
	return all
}

// TestRotation: files are bounded in size and number, and hold the newest lines
// in order and whole, also those of many writers and of several lives.
func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "audit.log")
	n := 0
	for range 3 {
		l := open(t, path)
		for range 40 {
			l.Record([]byte(fmt.Sprintf("%04d %s", n, strings.Repeat("x", 60))))
			n++
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 3 {
		t.Fatalf("there are %v: %v", entries, err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.Size() > 1000 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has %d bytes, mode %v", e.Name(), info.Size(), info.Mode())
		}
	}
	lines := read(t, path, 3)
	if len(lines) < 30 {
		t.Errorf("%d lines are left", len(lines))
	}
	for i, line := range lines {
		if want := fmt.Sprintf("%04d ", n-len(lines)+i); !strings.HasPrefix(line, want) || len(line) != 65 {
			t.Fatalf("line %d is %q", i, line)
		}
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v: %v", info.Mode(), err)
	}
}

func TestManyWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path, func(o *audit.Options) { o.MaxSize, o.Sync = 1<<20, true })
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 20 {
				l.Record([]byte(fmt.Sprintf("%d-%d", i, j)))
			}
		})
	}
	all.Wait()
	seen := map[string]bool{}
	for _, line := range read(t, path, 1) {
		seen[line] = true
	}
	if len(seen) != 160 {
		t.Errorf("%d lines of 160 are whole", len(seen))
	}
}

// TestHalfALine: what a crash left of a line is not joined to the next one.
func TestHalfALine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte("one\ntw"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, path)
	l.Record([]byte("three"))
	if got := strings.Join(read(t, path, 1), ","); got != "one,tw,three" {
		t.Errorf("the log is %q", got)
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, dir, "/dev/null"} {
		if _, err := audit.Open(audit.Options{Path: path, MaxSize: 1000, MaxFiles: 2}); err == nil || !strings.Contains(err.Error(), "audit log "+path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
