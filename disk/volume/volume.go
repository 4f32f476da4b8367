// Package volume finds the file systems of a guest's disk, and where they are
// mounted in the guest.
//
//	disk ─┬─ no partition table: one file system
//	      └─ partitions ─┬─ ext2, ext3, ext4: read
//	                     └─ others: named by what they begin with
//
// Which of them is the root is not written anywhere. It is the largest one with a
// directory /etc or, when none has one, the largest. Where the others are mounted,
// the root's /etc/fstab says.
package volume

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"sandboxd.dev/sandboxd/disk/block"
	"sandboxd.dev/sandboxd/disk/ext4"
	"sandboxd.dev/sandboxd/disk/partition"
)

// ErrUnsupported: the disk has no file system that is read here.
var ErrUnsupported = errors.New("not supported")

// Volume is one partition, or the disk as a whole.
type Volume struct {
	// Number of the partition; 0 for the whole disk.
	Number int
	// Start and Size on the disk, in bytes.
	Start, Size int64
	// Kind of what is on it, such as ext4 or xfs; empty when that is unknown.
	Kind string
	// UUID of the partition.
	UUID string
	// FS is its file system; nil when it is not read.
	FS *ext4.FS
	// Mount is where the guest has it: / for its root. Empty when /etc/fstab does
	// not say.
	Mount string
}

// Name names the volume in messages.
func (v *Volume) Name() string {
	if v.Number == 0 {
		return "the disk"
	}
	return fmt.Sprintf("partition %d", v.Number)
}

// Disk is a disk with its volumes.
type Disk struct {
	*block.Disk
	Volumes []*Volume
}

// Open finds the volumes. ErrUnsupported when none of them has a file system that is
// read here.
func Open(d *block.Disk) (*Disk, error) {
	whole := &Volume{Size: d.Size()}
	if err := whole.open(d); err != nil {
		return nil, err
	}
	disk := &Disk{Disk: d}
	if whole.FS == nil && whole.Kind == "" {
		parts, err := partition.Read(d, d.Size())
		if err != nil {
			return nil, err
		}
		for _, p := range parts {
			v := &Volume{Number: p.Number, Start: p.Start, Size: p.Size, UUID: p.UUID}
			if err := v.open(d); err != nil {
				return nil, err
			}
			disk.Volumes = append(disk.Volumes, v)
		}
	}
	if len(disk.Volumes) == 0 {
		disk.Volumes = []*Volume{whole}
	}
	root := disk.findRoot()
	if root == nil {
		return nil, fmt.Errorf("%w: %s; only ext2, ext3 and ext4 are read", ErrUnsupported, disk.found())
	}
	root.Mount = "/"
	disk.mounts(root)
	return disk, nil
}

// open looks at what a volume holds.
func (v *Volume) open(d *block.Disk) error {
	section := io.NewSectionReader(d, v.Start, v.Size)
	var err error
	if v.Kind, err = identify(section); err != nil {
		return fmt.Errorf("%s: %w", v.Name(), err)
	}
	if v.Kind != kindExt {
		return nil
	}
	if v.FS, err = ext4.Open(section, v.Size); err != nil {
		return fmt.Errorf("the file system of %s: %w", v.Name(), err)
	}
	return nil
}

// found tells what is on the disk instead.
func (d *Disk) found() string {
	var list []string
	for _, v := range d.Volumes {
		kind := v.Kind
		if kind == "" {
			kind = "nothing that is known"
		}
		list = append(list, v.Name()+" holds "+kind)
	}
	return strings.Join(list, ", ")
}

func (d *Disk) findRoot() *Volume {
	var root *Volume
	hasEtc := false
	for _, v := range d.Volumes {
		if v.FS == nil {
			continue
		}
		ino, _, err := v.FS.Resolve("/etc", false)
		etc := err == nil && ino.IsDir()
		if root == nil || etc && !hasEtc || etc == hasEtc && v.Size > root.Size {
			root, hasEtc = v, etc
		}
	}
	return root
}

// Root is the volume that is mounted at /.
func (d *Disk) Root() *Volume {
	for _, v := range d.Volumes {
		if v.Mount == "/" {
			return v
		}
	}
	return nil // Open has seen to it that there is one
}

// Locate finds the volume that a path of the guest lies on, and the path in it.
func (d *Disk) Locate(name string) (*Volume, string) {
	best := d.Root()
	for _, v := range d.Volumes {
		if v.FS != nil && v.Mount != "" && len(v.Mount) > len(best.Mount) && (name == v.Mount || strings.HasPrefix(name, v.Mount+"/")) {
			best = v
		}
	}
	if best.Mount == "/" {
		return best, name
	}
	return best, "/" + strings.TrimPrefix(name[len(best.Mount):], "/")
}

const kindExt = "ext4"

// magics are what file systems and their like begin with.
var magics = []struct {
	at    int64
	magic string
	kind  string
}{
	{0, "LUKS\xba\xbe", "an encrypted volume (LUKS)"},
	{0, "XFSB", "xfs"},
	{0x10040, "_BHRfS_M", "btrfs"},
	{512, "LABELONE", "a physical volume of LVM"},
	{0, "LABELONE", "a physical volume of LVM"},
	{3, "NTFS    ", "ntfs"},
	{3, "EXFAT   ", "exfat"},
	{82, "FAT32   ", "vfat"},
	{54, "FAT16   ", "vfat"},
	{54, "FAT12   ", "vfat"},
	{4086, "SWAPSPACE2", "swap"},
	{0x8001, "CD001", "iso9660"},
	{0, "hsqs", "squashfs"},
	{1024, "\xe2\xe1\xf5\xe0", "erofs"},
	{1024, "\x10\x20\xf5\xf2", "f2fs"},
	{4096, "\xfc\x4e\x2b\xa9", "a member of a RAID"},
	{0, "\xfc\x4e\x2b\xa9", "a member of a RAID"},
}

// identify tells what a volume holds; empty when that is unknown.
func identify(r *io.SectionReader) (string, error) {
	head := make([]byte, min(r.Size(), 0x10048))
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if len(head) >= 2048 && binary.LittleEndian.Uint16(head[ext4.MagicAt:]) == ext4.Magic {
		return kindExt, nil
	}
	for _, m := range magics {
		if int64(len(head)) > m.at && bytes.HasPrefix(head[m.at:], []byte(m.magic)) {
			return m.kind, nil
		}
	}
	return "", nil
}
