package fake

import (
	"context"
	"os"
	"os/exec"
	"testing"

	"sandboxd.dev/sandboxd/providers/fake/internal/guest"
)

// TestLayerCutOff: a disk that cannot be written to a file leaves none.
func TestLayerCutOff(t *testing.T) {
	if _, err := exec.LookPath("/usr/sbin/mkfs.ext4"); err != nil {
		t.Skip("there is no mkfs.ext4, which could be cut off")
	}
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := layer(ctx, guest.NewDisk(minFileSystem)); err == nil {
		t.Error("it was written all the same")
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}
