package ssh

import (
	"os"
	"path/filepath"
	"testing"
)

// TestKeyOfAKilledProcess: what a process that was killed while it made the key has
// left does not stay.
func TestKeyOfAKilledProcess(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, unfinished+"1"), []byte("half a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	first, err := NewKey(filepath.Join(dir, "key")).Authorized()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := NewKey(filepath.Join(dir, "key")).Authorized(); err != nil || again != first {
		t.Errorf("the key is %q, was %q: %v", again, first, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("there is %v, %v", entries, err)
	}
}
