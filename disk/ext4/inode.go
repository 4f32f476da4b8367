package ext4

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"time"
)

const (
	flagEncrypted = 0x800
	flagExtents   = 0x80000
	flagEAInode   = 0x200000
	flagInline    = 0x10000000

	kindMask = 0xf000
	kindFIFO = 0x1000
	kindChar = 0x2000
	kindDir  = 0x4000
	kindBlk  = 0x6000
	kindFile = 0x8000
	kindLink = 0xa000
	kindSock = 0xc000

	// maxFileSize bounds a file, in bytes: more than the format can hold.
	maxFileSize = 1 << 60
	// maxTarget bounds the target of a symbolic link, in bytes.
	maxTarget = 4096
)

// Inode describes a file.
type Inode struct {
	Number uint32
	// Kind and permissions, as Linux has them in st_mode.
	Mode     uint16
	UID, GID uint32
	Links    uint16
	Size     int64
	ModTime  time.Time
	// Device of a device file, as major and minor number.
	Major, Minor uint32

	flags uint32
	block [60]byte
	acl   uint64
	// extra is what the inode holds beyond its fixed fields: extended attributes.
	extra []byte
}

// IsDir tells whether it is a directory.
func (i *Inode) IsDir() bool { return i.Mode&kindMask == kindDir }

// IsRegular tells whether it is a regular file.
func (i *Inode) IsRegular() bool { return i.Mode&kindMask == kindFile }

// IsSymlink tells whether it is a symbolic link.
func (i *Inode) IsSymlink() bool { return i.Mode&kindMask == kindLink }

// IsDevice tells whether it is a device file.
func (i *Inode) IsDevice() bool {
	return i.Mode&kindMask == kindChar || i.Mode&kindMask == kindBlk
}

// Type is a word for the kind of file.
func (i *Inode) Type() string {
	switch i.Mode & kindMask {
	case kindFIFO:
		return "fifo"
	case kindChar:
		return "character-device"
	case kindDir:
		return "directory"
	case kindBlk:
		return "block-device"
	case kindFile:
		return "file"
	case kindLink:
		return "symlink"
	case kindSock:
		return "socket"
	default:
		return "unknown"
	}
}

// Perm are the permission bits with set-user-ID, set-group-ID and sticky.
func (i *Inode) Perm() uint16 { return i.Mode &^ kindMask }

// FileMode is the mode as package fs has it, of files, directories and links.
func (i *Inode) FileMode() fs.FileMode {
	mode := fs.FileMode(i.Mode & 0o777)
	switch i.Mode & kindMask {
	case kindDir:
		mode |= fs.ModeDir
	case kindLink:
		mode |= fs.ModeSymlink
	}
	return mode
}

// Inode reads an inode.
func (fs *FS) Inode(number uint32) (*Inode, error) {
	if number == 0 || number > fs.inodes {
		return nil, corrupt("there is no inode %d", number)
	}
	group, index := (number-1)/fs.perGroup, (number-1)%fs.perGroup
	table, err := fs.inodeTable(group)
	if err != nil {
		return nil, err
	}
	at := int64(index) * fs.inodeSize
	b, err := fs.block(table + uint64(at/fs.blockSize))
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", number, err)
	}
	raw := b[at%fs.blockSize:][:fs.inodeSize]
	return fs.parseInode(number, raw)
}

func (fs *FS) parseInode(number uint32, raw []byte) (*Inode, error) {
	le := binary.LittleEndian
	size := uint64(le.Uint32(raw[4:])) | uint64(le.Uint32(raw[0x6c:]))<<32
	if size > maxFileSize {
		return nil, corrupt("inode %d has %d bytes", number, size)
	}
	i := &Inode{
		Number: number, Mode: le.Uint16(raw), Links: le.Uint16(raw[0x1a:]), Size: int64(size),
		UID:   uint32(le.Uint16(raw[2:])) | uint32(le.Uint16(raw[0x78:]))<<16,
		GID:   uint32(le.Uint16(raw[0x18:])) | uint32(le.Uint16(raw[0x7a:]))<<16,
		flags: le.Uint32(raw[0x20:]),
		acl:   uint64(le.Uint32(raw[0x68:])) | uint64(le.Uint16(raw[0x76:]))<<32,
	}
	copy(i.block[:], raw[0x28:])
	seconds, nanos := int64(int32(le.Uint32(raw[0x10:]))), int64(0)
	if len(raw) > 128 {
		extra := int(le.Uint16(raw[0x80:]))
		if extra > len(raw)-128 || extra%4 != 0 {
			return nil, corrupt("inode %d has %d extra bytes", number, extra)
		}
		if extra >= 12 {
			more := le.Uint32(raw[0x88:])
			seconds += int64(more&3) << 32
			nanos = int64(more >> 2)
		}
		i.extra = append([]byte(nil), raw[128+extra:]...)
	}
	i.ModTime = time.Unix(seconds, min(nanos, 999999999)).UTC()
	if i.IsDevice() {
		i.Major, i.Minor = device(le.Uint32(i.block[:]), le.Uint32(i.block[4:]))
	}
	return i, nil
}

// device reads a device number in its old or its new form.
func device(old, recent uint32) (major, minor uint32) {
	if old != 0 {
		return old >> 8 & 0xff, old & 0xff
	}
	return recent >> 8 & 0xfff, recent&0xff | recent>>12&0xfff00
}

// inodeTable finds the first block of a group's inodes.
func (fs *FS) inodeTable(group uint32) (uint64, error) {
	perBlock := uint32(fs.blockSize / fs.descSize)
	b, err := fs.block(fs.descriptorBlock(group/perBlock, perBlock))
	if err != nil {
		return 0, fmt.Errorf("descriptor of group %d: %w", group, err)
	}
	raw := b[int64(group%perBlock)*fs.descSize:]
	table := uint64(binary.LittleEndian.Uint32(raw[8:]))
	if fs.descSize >= 64 {
		table |= uint64(binary.LittleEndian.Uint32(raw[0x28:])) << 32
	}
	return table, nil
}

// descriptorBlock is where one of the blocks with group descriptors is.
func (fs *FS) descriptorBlock(n, perBlock uint32) uint64 {
	super := uint64(superblockAt / fs.blockSize)
	if fs.incompat&incompatMetaBG == 0 || n < fs.metaGroup {
		return super + 1 + uint64(n)
	}
	group := uint64(n) * uint64(perBlock)
	at := uint64(fs.firstBlock) + group*uint64(fs.groupBlocks)
	if fs.hasSuper(group) {
		at++
		if n == 0 && fs.blockSize == 1024 && fs.firstBlock == 0 {
			at++
		}
	}
	return at
}

// hasSuper tells whether a group begins with a copy of the superblock.
func (fs *FS) hasSuper(group uint64) bool {
	if fs.rocompat&rocompatSparseSuper == 0 || group <= 1 {
		return true
	}
	for _, base := range []uint64{3, 5, 7} {
		power := base
		for power < group {
			power *= base
		}
		if power == group {
			return true
		}
	}
	return false
}

// Readlink reads the target of a symbolic link.
func (fs *FS) Readlink(i *Inode) (string, error) {
	switch {
	case !i.IsSymlink():
		return "", corrupt("inode %d is no symbolic link", i.Number)
	case i.Size > maxTarget:
		return "", corrupt("symbolic link %d has %d bytes", i.Number, i.Size)
	case i.Size < int64(len(i.block)) && i.flags&(flagExtents|flagInline|flagEncrypted) == 0:
		return string(i.block[:i.Size]), nil
	}
	f, err := fs.OpenFile(i)
	if err != nil {
		return "", err
	}
	p := make([]byte, i.Size)
	if _, err := f.ReadAt(p, 0); err != nil {
		return "", err
	}
	return string(p[:length(p)]), nil
}
