package ext4

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	journalMagic = 0xc03b3998

	blockDescriptor = 1
	blockCommit     = 2
	blockSuperV1    = 3
	blockSuperV2    = 4
	blockRevoke     = 5

	journal64Bit      = 0x2
	journalChecksum2  = 0x8
	journalChecksum3  = 0x10
	journalFastCommit = 0x20
	// journalReadable are the features of a journal that are read: revoke, 64bit,
	// async_commit, both checksums, and fast_commit but for the fast commits.
	journalReadable = 0x1 | journal64Bit | 0x4 | journalChecksum2 | journalChecksum3 | journalFastCommit

	tagEscaped  = 1
	tagSameUUID = 2
	tagLast     = 8
)

// JournalState tells what was found in the journal.
type JournalState struct {
	// Dirty: the file system was not unmounted, and its journal is not empty.
	Dirty bool
	// Transactions that were taken into account, and Blocks that they change.
	Transactions, Blocks int
	// Missing says what could not be taken into account; may be empty.
	Missing string
}

// copied is where the journal has the newer copy of a block.
type copied struct {
	block   uint64 // of the file system
	escaped bool
}

// read reads the copy.
func (c copied) read(fs *FS, p []byte) error {
	if _, err := fs.dev.ReadAt(p, int64(c.block)*fs.blockSize); err != nil {
		return fmt.Errorf("block %d of the journal: %w", c.block, err)
	}
	if c.escaped {
		binary.BigEndian.PutUint32(p, journalMagic)
	}
	return nil
}

// overlay reads a device as it is after the journal was replayed.
type overlay struct {
	fs    *FS
	newer map[uint64]copied
	size  int64
}

func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	bs := o.fs.blockSize
	b := make([]byte, bs)
	for done := 0; done < len(p); {
		at := off + int64(done)
		if at >= o.size {
			return done, io.EOF
		}
		if c, ok := o.newer[uint64(at/bs)]; ok {
			if err := c.read(o.fs, b); err != nil {
				return done, err
			}
		} else if n, err := o.fs.dev.ReadAt(b, at/bs*bs); n < len(b) {
			return done, err
		}
		done += copy(p[done:], b[at%bs:])
	}
	return len(p), nil
}

// journal is the log while it is read.
//
//	descriptor, its blocks, …, revoke, …, commit │ descriptor … commit │ old
//	transaction n                                │ n+1                 │ end
type journal struct {
	fs       *FS
	blocks   []Extent // of the journal's inode
	first    uint32
	end      uint32 // the first block behind the log
	features uint32
	seed     uint32

	// What the transaction that is being read changes.
	tags    []tag
	revoked []uint64
	// done are the transactions with a commit.
	done []transaction
}

type tag struct {
	block uint64
	copied
}

type transaction struct {
	sequence uint32
	tags     []tag
	revoked  []uint64
}

// readJournal finds the blocks that committed transactions hold newer copies of.
func (fs *FS) readJournal() (map[uint64]copied, JournalState, error) {
	if fs.journalInode == 0 {
		return nil, JournalState{Dirty: true, Missing: "its journal is on another disk and was not replayed"}, nil
	}
	ino, err := fs.Inode(fs.journalInode)
	if err != nil {
		return nil, JournalState{}, err
	}
	j := &journal{fs: fs}
	if j.blocks, err = fs.Extents(ino); err != nil {
		return nil, JournalState{}, err
	}
	start, sequence, err := j.open(ino.Size)
	if err != nil || start == 0 {
		return nil, JournalState{}, err
	}
	if err := j.scan(start, sequence); err != nil {
		return nil, JournalState{}, err
	}
	state := JournalState{Dirty: true, Transactions: len(j.done)}
	if j.features&journalFastCommit != 0 {
		state.Missing = "fast commits of its journal, if there are any, were not replayed"
	}
	newer := j.replay()
	state.Blocks = len(newer)
	return newer, state, nil
}

// open reads the journal's superblock, and returns where the log begins (0: it is
// empty) and with which transaction.
func (j *journal) open(size int64) (start, sequence uint32, err error) {
	head, err := j.read(0)
	if err != nil {
		return 0, 0, err
	}
	be := binary.BigEndian
	kind := be.Uint32(head[4:])
	if be.Uint32(head) != journalMagic || kind != blockSuperV1 && kind != blockSuperV2 {
		return 0, 0, corrupt("it has no superblock")
	}
	j.end, j.first = be.Uint32(head[16:]), be.Uint32(head[20:])
	sequence, start = be.Uint32(head[24:]), be.Uint32(head[28:])
	if kind == blockSuperV2 {
		j.features = be.Uint32(head[40:])
		j.seed = crc(^uint32(0), head[48:64])
	}
	if start == 0 {
		return 0, 0, nil
	}
	if j.features&journalFastCommit != 0 {
		fast := be.Uint32(head[0x54:])
		if fast == 0 {
			fast = 256
		}
		if fast >= j.end {
			return 0, 0, corrupt("%d fast commit blocks", fast)
		}
		j.end -= fast
	}
	switch {
	case j.features&^journalReadable != 0:
		return 0, 0, fmt.Errorf("%w: incompatible features %#x", ErrUnsupported, j.features&^journalReadable)
	case int64(be.Uint32(head[12:])) != j.fs.blockSize:
		return 0, 0, corrupt("blocks of %d bytes", be.Uint32(head[12:]))
	case j.first == 0 || j.first >= j.end || int64(j.end) > size/j.fs.blockSize || start < j.first || start >= j.end:
		return 0, 0, corrupt("a log from %d in [%d, %d)", start, j.first, j.end)
	}
	return start, sequence, nil
}

// at finds the block of the file system that holds one of the journal.
func (j *journal) at(n uint32) (uint64, error) {
	if e, ok := find(j.blocks, uint64(n)); ok && !e.Unwritten {
		return e.Physical + uint64(n) - e.Logical, nil
	}
	return 0, corrupt("it has no block %d", n)
}

func (j *journal) read(n uint32) ([]byte, error) {
	at, err := j.at(n)
	if err != nil {
		return nil, err
	}
	p := make([]byte, j.fs.blockSize)
	return p, j.fs.readBlocks(p, at)
}

// scan reads the log up to its end, which is where a block is not what it must be
// there: the rest is of an earlier round.
func (j *journal) scan(at, sequence uint32) error {
	for left := j.end - j.first; left > 0; {
		b, err := j.read(at)
		if err != nil {
			return err
		}
		be := binary.BigEndian
		if be.Uint32(b) != journalMagic || be.Uint32(b[8:]) != sequence {
			return nil
		}
		used := uint32(1)
		switch be.Uint32(b[4:]) {
		case blockDescriptor:
			n, ok, err := j.descriptor(b, at, left-1)
			if err != nil || !ok {
				return err
			}
			used += n
		case blockRevoke:
			if !j.intact(b, j.fs.blockSize-4) || !j.revoke(b) {
				return nil
			}
		case blockCommit:
			if !j.intact(b, 16) {
				return nil
			}
			j.done = append(j.done, transaction{sequence, j.tags, j.revoked})
			j.tags, j.revoked = nil, nil
			sequence++
		default:
			return nil
		}
		left -= min(left, used)
		at = j.advance(at, used)
	}
	return nil
}

// advance goes forward in the log, which is a ring.
func (j *journal) advance(at, n uint32) uint32 {
	return j.first + uint32((uint64(at-j.first)+uint64(n))%uint64(j.end-j.first))
}

// intact verifies the checksum of a block of the journal's own, which lies at the
// given place.
func (j *journal) intact(b []byte, at int64) bool {
	if j.features&(journalChecksum2|journalChecksum3) == 0 {
		return true
	}
	want := binary.BigEndian.Uint32(b[at:])
	sum := crc(j.seed, b[:at])
	sum = crc(sum, []byte{0, 0, 0, 0})
	return crc(sum, b[at+4:]) == want
}

// descriptor reads the tags of a descriptor: which blocks follow it. It returns how
// many, and whether it is one.
func (j *journal) descriptor(b []byte, at, left uint32) (uint32, bool, error) {
	be, end := binary.BigEndian, int64(len(b))
	if j.features&(journalChecksum2|journalChecksum3) != 0 {
		end -= 4
		if !j.intact(b, end) {
			return 0, false, nil
		}
	}
	sequence := b[8:12]
	size := j.tagSize()
	count := uint32(0)
	for p := int64(12); p+size <= end; {
		raw := b[p : p+size]
		block, flags, sum := uint64(be.Uint32(raw)), uint32(be.Uint16(raw[6:])), uint32(be.Uint16(raw[4:]))
		if j.features&journalChecksum3 != 0 {
			flags, sum = be.Uint32(raw[4:]), be.Uint32(raw[12:])
		}
		if j.features&journal64Bit != 0 {
			block |= uint64(be.Uint32(raw[8:])) << 32
		}
		if count++; count > left {
			return 0, false, nil
		}
		where, err := j.at(j.advance(at, count))
		if err != nil {
			return 0, false, err
		}
		ok, err := j.whole(where, sequence, sum)
		if err != nil {
			return 0, false, err
		}
		if ok && block < j.fs.blocks {
			j.tags = append(j.tags, tag{block, copied{where, flags&tagEscaped != 0}})
		}
		p += size
		if flags&tagSameUUID == 0 {
			p += 16
		}
		if flags&tagLast != 0 {
			break
		}
	}
	return count, true, nil
}

func (j *journal) tagSize() int64 {
	if j.features&journalChecksum3 != 0 {
		return 16
	}
	size := int64(8)
	if j.features&journal64Bit != 0 {
		size += 4
	}
	if j.features&journalChecksum2 != 0 {
		size += 2
	}
	return size
}

// whole verifies the checksum of a block that is to be replayed. The kernel leaves
// out one that is not whole, too.
func (j *journal) whole(at uint64, sequence []byte, sum uint32) (bool, error) {
	if j.features&(journalChecksum2|journalChecksum3) == 0 {
		return true, nil
	}
	b := make([]byte, j.fs.blockSize)
	if err := j.fs.readBlocks(b, at); err != nil {
		return false, err
	}
	got := crc(crc(j.seed, sequence), b)
	if j.features&journalChecksum3 == 0 {
		got &= 0xffff
	}
	return got == sum, nil
}

// revoke reads which blocks must not be replayed from here backwards.
func (j *journal) revoke(b []byte) bool {
	size := 4
	if j.features&journal64Bit != 0 {
		size = 8
	}
	used := int(binary.BigEndian.Uint32(b[12:]))
	if used < 16 || used > len(b) {
		return false
	}
	for p := 16; p+size <= used; p += size {
		if size == 8 {
			j.revoked = append(j.revoked, binary.BigEndian.Uint64(b[p:]))
		} else {
			j.revoked = append(j.revoked, uint64(binary.BigEndian.Uint32(b[p:])))
		}
	}
	return true
}

// replay applies the committed transactions in their order.
func (j *journal) replay() map[uint64]copied {
	last := map[uint64]int{} // the last transaction that revokes a block
	for i, t := range j.done {
		for _, block := range t.revoked {
			last[block] = i
		}
	}
	newer := map[uint64]copied{}
	for i, t := range j.done {
		for _, tag := range t.tags {
			if at, ok := last[tag.block]; !ok || at < i {
				newer[tag.block] = tag.copied
			}
		}
	}
	return newer
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc is the checksum as Linux computes it: without the inversions.
func crc(seed uint32, p []byte) uint32 { return ^crc32.Update(^seed, castagnoli, p) }
