package archive

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSparse: a file of holes, of which an archive has nothing, is refused before
// anything of it is written.
func TestSparse(t *testing.T) {
	program, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("there is no tar")
	}
	from := t.TempDir()
	if err := os.WriteFile(filepath.Join(from, "holes"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(from, "holes"), 1<<30); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"--format=gnu", "--format=posix"} {
		packed, err := exec.Command(program, "-C", from, "-S", format, "-c", "holes").Output()
		if err != nil {
			t.Skipf("this tar packs nothing sparsely: %v", err)
		}
		to := t.TempDir()
		err = Unpack(context.Background(), bytes.NewReader(packed), to, DefaultLimits)
		if entries, _ := os.ReadDir(to); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "--no-read-sparse") || len(entries) > 0 || len(packed) > 1<<20 {
			t.Errorf("%s, of %d bytes: %v, and %v", format, len(packed), err, entries)
		}
	}
}
