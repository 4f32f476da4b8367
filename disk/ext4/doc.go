// Package ext4 reads the file systems ext2, ext3 and ext4 of a guest.
//
//	blocks ─▶ superblock ─▶ journal ─▶ which blocks have a newer copy in it
//	                │                                  │
//	                └─▶ group ─▶ inode ─▶ extents ─▶ blocks ─▶ directory or file
//
// Nothing is ever written. A journal that was not replayed, which is what a machine
// leaves that lost its power, is taken into account as the kernel would: reads of a
// block that a committed transaction holds a newer copy of read that copy.
//
// Everything read is hostile. Offsets and counts are checked before use, trees are
// walked to a bounded depth and a bounded number of nodes, and no structure makes
// the reader keep more than a bounded amount in memory. Checksums of metadata are
// not verified outside of the journal: whoever writes hostile metadata computes
// them as well, and an honest mistake is no reason to refuse to look.
package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// The kinds of errors, to be tested with errors.Is.
var (
	// ErrCorrupt: a structure contradicts itself or the file system.
	ErrCorrupt = errors.New("corrupt")
	// ErrUnsupported: the file system uses something that is not read here.
	ErrUnsupported = errors.New("not supported")
	// ErrNotExist: there is no such file.
	ErrNotExist = errors.New("no such file or directory")
	// ErrNotDir: a directory is needed and something else is there.
	ErrNotDir = errors.New("not a directory")
	// ErrTooLarge: there is more than is read.
	ErrTooLarge = errors.New("too large")
)

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

const (
	superblockAt   = 1024
	superblockSize = 1024
	// Magic of a superblock, at MagicAt of the partition.
	Magic   = 0xef53
	MagicAt = superblockAt + 56

	compatJournal = 0x4

	incompatCompression = 0x1
	incompatRecover     = 0x4
	incompatJournalDev  = 0x8
	incompatMetaBG      = 0x10
	incompat64Bit       = 0x80
	incompatDirData     = 0x1000
	// readable are the incompatible features that make no difference to a reader,
	// or are read: filetype, recover, meta_bg, extents, 64bit, mmp, flex_bg,
	// ea_inode, csum_seed, largedir, inline_data, encrypt and casefold. Names and
	// contents that are encrypted read as they are stored.
	readable = 0x2 | incompatRecover | incompatMetaBG | 0x40 | incompat64Bit | 0x100 | 0x200 |
		0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000

	rocompatSparseSuper = 0x1

	// maxCached bounds the blocks of metadata that are kept, in bytes.
	maxCached = 16 << 20
)

// RootInode is the inode of the root directory.
const RootInode = 2

// FS is a file system. It is not safe for concurrent use.
type FS struct {
	dev       io.ReaderAt
	blockSize int64
	blocks    uint64
	inodes    uint32
	// perGroup is the number of inodes of a group, and groupBlocks that of blocks.
	perGroup, groupBlocks uint32
	firstBlock            uint32
	inodeSize             int64
	descSize              int64
	metaGroup             uint32
	incompat, compat      uint32
	rocompat              uint32
	journalInode          uint32
	// UUID and Label of the file system.
	UUID  [16]byte
	Label string

	// newer are the blocks that the journal holds a newer copy of.
	newer map[uint64]copied
	cache map[uint64][]byte
	// Journal tells what was done with the journal.
	Journal JournalState
}

// Open reads a file system of which the device holds size bytes. Its journal is
// taken into account.
func Open(dev io.ReaderAt, size int64) (*FS, error) {
	fs, err := open(dev, size)
	if err != nil || fs.compat&compatJournal == 0 || fs.incompat&incompatRecover == 0 {
		return fs, err
	}
	newer, state, err := fs.readJournal()
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if len(newer) > 0 {
		// The superblock itself may be among them.
		replayed, err := open(&overlay{fs: fs, newer: newer, size: size}, size)
		if err != nil {
			return nil, err
		}
		if replayed.blockSize != fs.blockSize {
			return nil, corrupt("the journal changes the size of blocks")
		}
		replayed.dev, replayed.newer = dev, newer
		clear(replayed.cache)
		fs = replayed
	}
	fs.Journal = state
	return fs, nil
}

func open(dev io.ReaderAt, size int64) (*FS, error) {
	raw := make([]byte, superblockSize)
	if n, err := dev.ReadAt(raw, superblockAt); n < len(raw) {
		return nil, fmt.Errorf("superblock: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint16(raw[56:]) != Magic {
		return nil, corrupt("there is no superblock")
	}
	log := le.Uint32(raw[24:])
	if log > 6 {
		return nil, corrupt("blocks of 2^%d KiB", log)
	}
	fs := &FS{
		dev: dev, blockSize: 1024 << log, blocks: uint64(le.Uint32(raw[4:])), inodes: le.Uint32(raw),
		perGroup: le.Uint32(raw[40:]), groupBlocks: le.Uint32(raw[32:]), firstBlock: le.Uint32(raw[20:]),
		inodeSize: 128, descSize: 32, cache: map[uint64][]byte{},
	}
	if le.Uint32(raw[76:]) > 0 { // a revision with features
		fs.inodeSize = int64(le.Uint16(raw[88:]))
		fs.compat, fs.incompat, fs.rocompat = le.Uint32(raw[92:]), le.Uint32(raw[96:]), le.Uint32(raw[100:])
		copy(fs.UUID[:], raw[104:])
		fs.Label = string(raw[120 : 120+length(raw[120:136])])
		fs.journalInode = le.Uint32(raw[224:])
		fs.metaGroup = le.Uint32(raw[260:])
	}
	if fs.incompat&incompat64Bit != 0 {
		fs.descSize = int64(le.Uint16(raw[254:]))
		fs.blocks |= uint64(le.Uint32(raw[336:])) << 32
	}
	return fs, fs.check(size)
}

// check looks whether the numbers of the superblock can be worked with.
func (fs *FS) check(size int64) error {
	switch {
	case fs.incompat&incompatJournalDev != 0:
		return fmt.Errorf("%w: it is the journal of another file system", ErrUnsupported)
	case fs.incompat&incompatCompression != 0:
		return fmt.Errorf("%w: it is compressed", ErrUnsupported)
	case fs.incompat&^readable != 0:
		return fmt.Errorf("%w: incompatible features %#x", ErrUnsupported, fs.incompat&^readable)
	case fs.inodeSize < 128 || fs.inodeSize > fs.blockSize || fs.inodeSize&(fs.inodeSize-1) != 0:
		return corrupt("inodes of %d bytes", fs.inodeSize)
	case fs.descSize < 32 || fs.descSize > fs.blockSize || fs.descSize&(fs.descSize-1) != 0,
		fs.incompat&incompat64Bit != 0 && fs.descSize < 64:
		return corrupt("group descriptors of %d bytes", fs.descSize)
	case fs.perGroup == 0 || int64(fs.perGroup) > fs.blockSize*8 || fs.groupBlocks == 0:
		return corrupt("groups of %d blocks with %d inodes", fs.groupBlocks, fs.perGroup)
	case fs.blocks == 0 || fs.blocks > uint64(math.MaxInt64/fs.blockSize):
		return corrupt("%d blocks", fs.blocks)
	}
	// What the device does not have is not there to be read.
	fs.blocks = min(fs.blocks, uint64(size/fs.blockSize))
	return nil
}

// length is that of a string that ends with the first zero byte.
func length(b []byte) int {
	for i, c := range b {
		if c == 0 {
			return i
		}
	}
	return len(b)
}

// BlockSize in bytes.
func (fs *FS) BlockSize() int64 { return fs.blockSize }

// block reads a block of metadata. The caller does not change it.
func (fs *FS) block(n uint64) ([]byte, error) {
	if b, ok := fs.cache[n]; ok {
		return b, nil
	}
	if n == 0 && fs.blockSize > superblockAt+superblockSize || n >= fs.blocks {
		return nil, corrupt("block %d cannot hold metadata", n)
	}
	b := make([]byte, fs.blockSize)
	if err := fs.readBlocks(b, n); err != nil {
		return nil, err
	}
	if int64(len(fs.cache)+1)*fs.blockSize > maxCached {
		clear(fs.cache)
	}
	fs.cache[n] = b
	return b, nil
}

// readBlocks reads whole blocks, which lie side by side.
func (fs *FS) readBlocks(p []byte, n uint64) error {
	count := uint64(int64(len(p)) / fs.blockSize)
	if n >= fs.blocks || count > fs.blocks-n {
		return corrupt("block %d lies beyond the end", n+count-1)
	}
	if _, err := fs.dev.ReadAt(p, int64(n)*fs.blockSize); err != nil {
		return fmt.Errorf("block %d: %w", n, err)
	}
	if len(fs.newer) == 0 {
		return nil
	}
	for i := range count {
		c, ok := fs.newer[n+i]
		if !ok {
			continue
		}
		if err := c.read(fs, p[int64(i)*fs.blockSize:int64(i+1)*fs.blockSize]); err != nil {
			return err
		}
	}
	return nil
}
