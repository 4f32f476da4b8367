package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/qemuimg"
)

// TestConvert: what comes out has the content of what went in, and nothing is made
// of a source that is refused.
func TestConvert(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("there is no qemu-img")
	}
	content := append(bytes.Repeat([]byte("sandboxd"), 1<<14), make([]byte, 1<<20)...)
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	own := errors.New("own")
	for name, tc := range map[string]struct {
		disk  v1.DiskSource
		limit int64
		ready error
		want  error
		made  bool
	}{
		"fine":        {disk: v1.DiskSource{Format: v1.DiskFormatRaw, SHA256: digest}, limit: 1 << 30, made: true},
		"digest":      {disk: v1.DiskSource{Format: v1.DiskFormatRaw, SHA256: strings.Repeat("0", 64)}, limit: 1 << 30, want: providers.ErrInvalid},
		"format":      {disk: v1.DiskSource{Format: v1.DiskFormatQCOW2}, limit: 1 << 30, want: providers.ErrInvalid},
		"size":        {disk: v1.DiskSource{Format: v1.DiskFormatRaw}, limit: 1 << 16, want: providers.ErrInvalid},
		"ready fails": {disk: v1.DiskSource{Format: v1.DiskFormatRaw}, limit: 1 << 30, ready: own, want: own},
	} {
		dir, err := filepath.EvalSymlinks(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		tc.disk.Path = filepath.Join(dir, "disk.img")
		if err := os.WriteFile(tc.disk.Path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		to, back := filepath.Join(dir, "to"), filepath.Join(dir, "back")
		var stages []string
		job := Job{
			Object: "image", Ref: providers.ImageRef{UID: "u", Revision: "r"}, Origin: Origin{Disk: &tc.disk}, Tool: qemuimg.New("qemu-img"), MaxBytes: tc.limit,
			Progress: func(p providers.Progress) {
				if n := len(stages); n == 0 || stages[n-1] != p.Stage {
					stages = append(stages, p.Stage)
				}
			},
		}
		img, err := job.Convert(t.Context(), filepath.Join(dir, "staged"), to, v1.DiskFormatQCOW2, func() error { return tc.ready })
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, statErr := os.Stat(to); (statErr == nil) != tc.made || (err == nil) != tc.made {
			t.Errorf("%s: %v, and the image: %v", name, err, statErr)
		}
		if !tc.made {
			continue
		}
		want := providers.Image{ImageRef: job.Ref, Digest: "sha256:" + digest, Format: v1.DiskFormatRaw, VirtualSize: int64(len(content)), SealedAt: img.SealedAt}
		if img != want || img.SealedAt.IsZero() || strings.Join(stages, " ") != "reading converting" {
			t.Errorf("%+v in the stages %s", img, stages)
		}
		if err := job.Tool.Convert(t.Context(), to, v1.DiskFormatQCOW2, back, v1.DiskFormatRaw, func(float64) {}); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(back); err != nil || !bytes.Equal(b, content) {
			t.Errorf("%d bytes came back as %d, %v", len(content), len(b), err)
		}
	}
}
