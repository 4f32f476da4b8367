package source

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/qemuimg"
	"sandboxd.dev/sandboxd/test/smalldisk"
)

// TestStageOnFullDisk: a source that does not fit is refused before it is read, and
// one whose space somebody else takes when that shows.
func TestStageOnFullDisk(t *testing.T) {
	smalldisk.Run(t, "100m", func(t *testing.T, d smalldisk.Disk) {
		src, to := filepath.Join(t.TempDir(), "source"), filepath.Join(d.Dir, "staged")
		if err := os.WriteFile(src, []byte(strings.Repeat("x", 4<<20)), 0o600); err != nil {
			t.Fatal(err)
		}
		d.Fill(10 << 20)
		none := func(providers.Progress) {}
		if _, _, err := Stage(t.Context(), "image", src, to, none); !errors.Is(err, providers.ErrCapacity) || !strings.Contains(err.Error(), d.Dir) || files.Exists(to) {
			t.Errorf("too little space: %v", err)
		}
		d.Empty()
		taken := false
		_, _, err := Stage(t.Context(), "image", src, to, func(p providers.Progress) {
			if !taken {
				taken = true
				d.Fill(0)
			}
		})
		if err := files.Error("image", d.Dir, err); !errors.Is(err, providers.ErrCapacity) || !strings.Contains(err.Error(), d.Dir) {
			t.Errorf("space that somebody took: %v", err)
		}
	})
}

// TestConvertOnFullDisk: what qemu-img finds no space for is known as that.
func TestConvertOnFullDisk(t *testing.T) {
	if _, err := os.Stat("/usr/bin/qemu-img"); err != nil {
		t.Skip("there is no qemu-img")
	}
	smalldisk.Run(t, "32m", func(t *testing.T, d smalldisk.Disk) {
		src := filepath.Join(t.TempDir(), "source")
		if err := os.WriteFile(src, []byte(strings.Repeat("x", 8<<20)), 0o600); err != nil {
			t.Fatal(err)
		}
		d.Fill(2 << 20)
		tool := qemuimg.New("qemu-img")
		to := filepath.Join(d.Dir, "image")
		err := Error("image", src, tool.Convert(t.Context(), src, v1.DiskFormatRaw, to, v1.DiskFormatQCOW2, func(float64) {}))
		if !errors.Is(err, syscall.ENOSPC) || strings.ContainsAny(err.Error(), "\n(") {
			t.Errorf("got %v", err)
		}
		_ = os.Remove(to)
		d.Empty()
		if err := tool.Convert(t.Context(), src, v1.DiskFormatRaw, to, v1.DiskFormatQCOW2, func(float64) {}); err != nil {
			t.Errorf("with room again: %v", err)
		}
	})
}
