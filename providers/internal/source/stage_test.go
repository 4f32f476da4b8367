package source

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"sandboxd.dev/sandboxd/providers"
)

// TestSourceThatGrows: a file that is written to while it is read, and faster
// than it is read, is taken as long as it was.
func TestSourceThatGrows(t *testing.T) {
	const size = 2 << 20
	dir := t.TempDir()
	path, to := filepath.Join(dir, "source"), filepath.Join(dir, "staged")
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), size), 0o600); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = writer.Close() }()
	more := bytes.Repeat([]byte("y"), size)
	staged, _, err := Stage(context.Background(), "image", path, to, func(p providers.Progress) {
		if p.Done > 4*size {
			t.Fatal("it is read for ever")
		}
		if _, err := writer.Write(more); err != nil {
			t.Fatal(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = staged.Close() }()
	if info, err := staged.Stat(); err != nil || info.Size() != size {
		t.Errorf("staged %d bytes, %v", info.Size(), err)
	}
}
