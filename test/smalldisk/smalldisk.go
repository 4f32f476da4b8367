//go:build linux

// Package smalldisk gives tests a disk that is full when they say so.
//
//	Run    test ──▶ the same test again, in a process with mounts of its own ──▶ tmpfs ──▶ body
//	Mount  in a process that has such mounts already (hack/private-libvirt)
//
// A Disk has a ballast, which takes all the space but what the test leaves. The
// disk is memory of the kernel's, and gone with the process.
package smalldisk

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inside tells a test's process that it is the one with mounts of its own.
const inside = "SANDBOXD_TEST_SMALL_DISK"

// Disk is a mounted file system of a known size.
type Disk struct {
	// Dir is where it is mounted. The test may write there what it likes.
	Dir string
	t   testing.TB
}

// Run runs a test with a disk of a size, such as "4m". It is the only thing that
// the test does: the test's function runs a second time, in a child process, and
// there the body is called. All goroutines of it see the disk, nobody else does.
// Hosts that allow no mounts of one's own skip the test.
func Run(t *testing.T, size string, body func(t *testing.T, d Disk)) {
	t.Helper()
	if os.Getenv(inside) == t.Name() {
		if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
			t.Fatalf("private mounts: %v", err)
		}
		body(t, Mount(t, t.TempDir(), size))
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.v") //nolint:gosec // this very test
	cmd.Env = append(os.Environ(), inside+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	var ended *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &ended):
		t.Skipf("mounts of its own are denied to this root: %v", err)
	case err != nil:
		t.Fatalf("on a small disk: %v\n%s", err, out)
	case !bytes.Contains(out, []byte("--- PASS: "+t.Name()+" ")) && !bytes.Contains(out, []byte("--- SKIP: "+t.Name()+" ")):
		t.Fatalf("on a small disk the test did not run:\n%s", out)
	}
}

// Mount mounts a disk in a process that nobody else shares its mounts with.
func Mount(t testing.TB, dir, size string) Disk {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755,size="+size); err != nil {
		t.Fatalf("mount of a small disk: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return Disk{Dir: dir, t: t}
}

func (d Disk) ballast() string { return filepath.Join(d.Dir, ".ballast") }

// Fill takes all the space but for some bytes.
func (d Disk) Fill(leave int64) {
	d.t.Helper()
	f, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		d.t.Fatal(err)
	}
	take := info.Size() + d.Free() - leave
	if take < 0 {
		take = 0
	}
	if err := f.Truncate(min(take, info.Size())); err != nil {
		d.t.Fatal(err)
	}
	if take > 0 {
		if err := unix.Fallocate(int(f.Fd()), 0, 0, take); err != nil { //nolint:gosec // a descriptor
			d.t.Fatal(fmt.Errorf("fill: %w", err))
		}
	}
	if leave == 0 { // the kernel counts the free pages of each processor about, and tells some too few
		for page := int64(os.Getpagesize()); unix.Fallocate(int(f.Fd()), 0, take, page) == nil; take += page { //nolint:gosec // a descriptor
		}
	}
}

// Empty gives all the space back.
func (d Disk) Empty() {
	d.t.Helper()
	if err := os.Remove(d.ballast()); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.t.Fatal(err)
	}
}

// Free is the space that is left, in bytes.
func (d Disk) Free() int64 {
	d.t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(d.Dir, &st); err != nil {
		d.t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize //nolint:gosec // a small disk
}

// Names of what is on the disk besides the ballast, below its root.
func (d Disk) Names() []string {
	d.t.Helper()
	var names []string
	err := filepath.WalkDir(d.Dir, func(path string, _ os.DirEntry, err error) error {
		if rel, relErr := filepath.Rel(d.Dir, path); err == nil && relErr == nil && rel != "." && path != d.ballast() {
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return names
}
