package worker

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestExhausted: a disk that has its reader run into a limit is told apart from a
// reader that the host has ended.
func TestExhausted(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		script string
		want   error
	}{
		"out of memory":     {"cat >/dev/null & echo 'fatal error: out of memory' >&2; exit 2", ErrExhausted},
		"killed":            {"kill -9 $$", ErrFailed},
		"rights are missed": {"echo 'rights cannot be given up' >&2; exit 1", ErrFailed},
	} {
		child := filepath.Join(t.TempDir(), "child")
		if err := os.WriteFile(child, []byte("#!/bin/sh\n"+c.script+"\n"), 0o700); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
		f, err := os.Open(disk)
		if err != nil {
			t.Fatal(err)
		}
		r := New(Options{Executable: child})
		err = r.run(t.Context(), request{}, Disk{Size: 1 << 20, Layers: []File{{File: f, Format: "raw"}}}, Disk{}, func(byte, []byte) error { return nil })
		_ = f.Close()
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
