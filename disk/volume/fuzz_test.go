package volume

import (
	"bytes"
	"path"
	"testing"

	"sandboxd.dev/sandboxd/disk/block"
	"sandboxd.dev/sandboxd/disk/ext4"
)

// FuzzMounts: a guest's /etc/fstab tells of places, and each of them at most once.
func FuzzMounts(f *testing.F) {
	f.Add("/dev/vda1 / ext4\nUUID=00000000-0000-0000-0000-000000000000 /home ext4\nLABEL=x /../../etc x\nPARTUUID=0a-02 /srv\n")
	f.Fuzz(func(t *testing.T, table string) {
		d := &Disk{Volumes: []*Volume{
			{Number: 1, FS: &ext4.FS{}, Mount: "/"}, {Number: 2, FS: &ext4.FS{}, UUID: "0a-02"}, {Number: 3},
		}}
		d.readMounts([]byte(table))
		seen := map[string]bool{}
		for _, v := range d.Volumes {
			if v.Mount == "" {
				continue
			}
			if seen[v.Mount] || !path.IsAbs(v.Mount) || path.Clean(v.Mount) != v.Mount || v.FS == nil {
				t.Fatalf("volume %d is at %q", v.Number, v.Mount)
			}
			seen[v.Mount] = true
		}
	})
}

// FuzzOpen: whatever is on a disk, file systems are found within it or it is refused.
func FuzzOpen(f *testing.F) {
	f.Add(make([]byte, 4096))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := block.Open(bytes.NewReader(raw), int64(len(raw)), "raw")
		if err != nil {
			return
		}
		disk, err := block.Compose([]block.Layer{l}, []int{1}, 0)
		if err != nil {
			t.Fatal(err)
		}
		d, err := Open(disk)
		if err != nil {
			return
		}
		for _, v := range d.Volumes {
			if v.Start < 0 || v.Size < 0 || v.Start+v.Size > int64(len(raw)) {
				t.Fatalf("a volume of %d bytes at %d of %d", v.Size, v.Start, len(raw))
			}
		}
	})
}
