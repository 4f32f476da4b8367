package worker

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// partitioned puts file systems side by side behind an MBR.
func partitioned(t *testing.T, images ...string) string {
	t.Helper()
	disk := make([]byte, 1<<20)
	disk[510], disk[511] = 0x55, 0xaa
	for i, image := range images {
		raw, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		slot := disk[446+16*i:]
		slot[4] = 0x83
		binary.LittleEndian.PutUint32(slot[8:], uint32(len(disk)/512))
		binary.LittleEndian.PutUint32(slot[12:], uint32(len(raw)/512))
		disk = append(disk, raw...)
	}
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Files are told where the guest's /etc/fstab mounts their partition.
func TestPartitions(t *testing.T) {
	root, boot, other := filepath.Join(t.TempDir(), "root"), filepath.Join(t.TempDir(), "boot"), filepath.Join(t.TempDir(), "other")
	write(t, filepath.Join(root, "etc/fstab"), "# a comment\nLABEL=boot /boot ext4 defaults 0 2\n/dev/vda3 none swap sw 0 0\n")
	write(t, filepath.Join(boot, "kernel"), "one")
	write(t, filepath.Join(other, "data"), "one")
	make4 := func(folder, size string, options ...string) string {
		image := filepath.Join(t.TempDir(), "image")
		makeFS(t, image, folder, size, options...)
		return image
	}
	// The root is neither the first nor the largest.
	images := func() []string {
		return []string{make4(boot, "4M", "-L", "boot"), make4(root, "8M"), make4(other, "16M")}
	}
	before := partitioned(t, images()...)
	write(t, filepath.Join(root, "new"), "")
	write(t, filepath.Join(boot, "kernel"), "two")
	write(t, filepath.Join(other, "more"), "")
	after := partitioned(t, images()...)
	changes, notes := diff(t, open(t, "raw", before), open(t, "raw", after))
	equal(t, changes, "added /new", "changed /boot/kernel content", "added /more")
	equal(t, notes)
	if files, _ := pull(t, open(t, "raw", after), "/boot/kernel"); files["kernel"] != "two" {
		t.Errorf("%q", files)
	}

	// What is not read is at least seen to have changed.
	xfs := filepath.Join(t.TempDir(), "xfs")
	write(t, xfs, "XFSB"+string(make([]byte, 1<<20-4)))
	images2 := images()
	before = partitioned(t, images2[1], xfs)
	changes, notes = diff(t, open(t, "raw", before), open(t, "raw", copyFile(t, before)))
	equal(t, changes)
	equal(t, notes)
	write(t, xfs, "XFSB"+string(make([]byte, 1<<20-5))+"x")
	changes, notes = diff(t, open(t, "raw", before), open(t, "raw", partitioned(t, images2[1], xfs)))
	equal(t, changes)
	equal(t, notes, "partition 2 holds xfs, which is not read; it has changed")
}
