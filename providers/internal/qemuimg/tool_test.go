package qemuimg

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

func tool(t *testing.T) Tool {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed")
	}
	return New("qemu-img")
}

// make makes a disk of 8 MiB with qemu-img itself.
func makeDisk(t *testing.T, format string, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	out, err := exec.Command("qemu-img", append([]string{"create", "-q", "-f", format}, append(args, path, "8M")...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func TestFormatsOfQemuImg(t *testing.T) {
	q := tool(t)
	ctx := context.Background()
	for format, name := range map[v1.DiskFormat]string{
		v1.DiskFormatQCOW2: "qcow2", v1.DiskFormatVMDK: "vmdk", v1.DiskFormatVDI: "vdi", v1.DiskFormatVHD: "vpc", v1.DiskFormatVHDX: "vhdx",
	} {
		path := makeDisk(t, name)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		info, _ := f.Stat()
		h, err := Inspect(f, info.Size(), "")
		_ = f.Close()
		if err != nil || h.Format != format {
			t.Errorf("%s is taken for %+v, %v", name, h, err)
			continue
		}
		i, err := q.Info(ctx, path, format)
		if err != nil || i.VirtualSize < 8<<20 {
			t.Errorf("%s: %+v, %v", name, i, err)
		}
		to := filepath.Join(t.TempDir(), "out.qcow2")
		var parts []float64
		if err := q.Convert(ctx, path, format, to, v1.DiskFormatQCOW2, func(p float64) { parts = append(parts, p) }); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(parts) == 0 || parts[len(parts)-1] != 1 {
			t.Errorf("%s: progress %v", name, parts)
		}
		if i, err := q.Info(ctx, to, v1.DiskFormatQCOW2); err != nil || i.VirtualSize < 8<<20 {
			t.Errorf("%s converted: %+v, %v", name, i, err)
		}
	}
}

func TestOverlays(t *testing.T) {
	q := tool(t)
	ctx := context.Background()
	base := makeDisk(t, "qcow2")
	path := filepath.Join(t.TempDir(), "overlay.qcow2")
	if err := q.CreateOverlay(ctx, path, base, 8<<20); err != nil {
		t.Fatal(err)
	}
	if err := q.Resize(ctx, path, base, 16<<20); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if h, err := ReadOverlay(f); err != nil || h.Backing != base || h.VirtualSize != 16<<20 {
		t.Errorf("%+v, %v", h, err)
	}
	if err := q.Resize(ctx, path, base, 1<<20); err == nil {
		t.Error("a disk was shrunk")
	}
	if _, err := q.Info(ctx, path, v1.DiskFormatQCOW2); !errors.Is(err, ErrRefersToOthers) {
		t.Errorf("an overlay as an image: %v", err)
	}
}

// TestConfinement: qemu-img opens no file that it was not given, whatever an
// image says.
func TestConfinement(t *testing.T) {
	q := tool(t)
	if !Confined() {
		t.Skip("the kernel has no Landlock")
	}
	ctx := context.Background()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := q.run(ctx, job{args: []string{"info", "-f", "raw", secret}, memory: infoMemory}); err == nil {
		t.Error("a file that was not given was read")
	}
	if _, err := q.run(ctx, job{args: []string{"info", "-f", "raw", secret}, memory: infoMemory, read: []string{secret}}); err != nil {
		t.Errorf("a file that was given: %v", err)
	}
	hostile := makeDisk(t, "qcow2", "-u", "-F", "raw", "-b", secret)
	out := filepath.Join(t.TempDir(), "out")
	if err := q.Convert(ctx, hostile, v1.DiskFormatQCOW2, out, v1.DiskFormatQCOW2, func(float64) {}); err == nil {
		t.Error("an image showed a file of the host that its header names")
	}
	if _, err := os.ReadFile(secret); err != nil {
		t.Errorf("the confinement stayed with this process: %v", err)
	}
}

// TestBomb: an image that becomes larger than there is room for takes no more
// than it may.
func TestBomb(t *testing.T) {
	q := tool(t)
	raw := filepath.Join(t.TempDir(), "raw")
	if err := os.WriteFile(raw, bytes.Repeat([]byte("x"), 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	small, out := filepath.Join(t.TempDir(), "small"), filepath.Join(t.TempDir(), "out")
	if text, err := exec.Command("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, small).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	const room = 1 << 20
	_, err := q.run(context.Background(), job{
		args:   []string{"convert", "-f", "qcow2", "-O", "qcow2", small, out},
		memory: workMemory, size: room, read: []string{small}, write: []string{out},
	})
	if !errors.Is(err, syscall.ENOSPC) || strings.ContainsAny(err.Error(), "\n(") {
		t.Errorf("got %v", err)
	}
	if info, err := os.Stat(out); err != nil || info.Size() > room {
		t.Errorf("it became %d bytes, %v", info.Size(), err)
	}
	if free := files.Free(os.TempDir()); free > 0 && roomFor(out) >= uint64(free) {
		t.Errorf("of %d bytes %d may be taken", free, roomFor(out))
	}
}

func TestCancelledAndBroken(t *testing.T) {
	q := tool(t)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	path := makeDisk(t, "qcow2")
	if _, err := q.Info(ended, path, v1.DiskFormatQCOW2); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := q.Info(context.Background(), path, v1.DiskFormatVMDK); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("another format: %v", err)
	}
	if _, err := New("no-such-qemu-img").Info(context.Background(), path, v1.DiskFormatQCOW2); err == nil || !strings.Contains(err.Error(), "qemu-utils") {
		t.Errorf("no program: %v", err)
	}
}
