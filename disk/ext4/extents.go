package ext4

import (
	"encoding/binary"
	"fmt"
	"io"
	"sort"
)

const (
	extentMagic = 0xf30a
	maxDepth    = 5
	// maxExtents bounds the pieces of one file, and maxNodes the blocks that tell
	// of them.
	maxExtents = 1 << 20
	maxNodes   = 1 << 20
)

// Extent says that blocks of a file lie side by side on the device.
type Extent struct {
	Logical, Physical, Length uint64
	// Unwritten blocks read as zeros.
	Unwritten bool
}

// find finds the extent of a block.
func find(list []Extent, logical uint64) (Extent, bool) {
	i := sort.Search(len(list), func(i int) bool { return list[i].Logical+list[i].Length > logical })
	if i < len(list) && list[i].Logical <= logical {
		return list[i], true
	}
	return Extent{}, false
}

// mapper collects the extents of a file.
type mapper struct {
	fs    *FS
	ino   *Inode
	end   uint64 // the first block behind the file's size
	list  []Extent
	nodes int
}

// Extents tells where a file's blocks are, up to its size. What it leaves out reads
// as zeros. A file whose contents lie in its inode has none.
func (fs *FS) Extents(i *Inode) ([]Extent, error) {
	if i.flags&flagInline != 0 {
		return nil, nil
	}
	m := &mapper{fs: fs, ino: i, end: (uint64(i.Size) + uint64(fs.blockSize) - 1) / uint64(fs.blockSize)}
	var err error
	if i.flags&flagExtents != 0 {
		err = m.node(i.block[:], -1)
	} else {
		err = m.pointers()
	}
	if err != nil {
		return nil, fmt.Errorf("blocks of inode %d: %w", i.Number, err)
	}
	return m.list, nil
}

func (m *mapper) visit() error {
	if m.nodes++; m.nodes > maxNodes {
		return fmt.Errorf("%w: its blocks are told by more than %d others", ErrTooLarge, maxNodes)
	}
	return nil
}

// add adds an extent, which must come after the others.
func (m *mapper) add(e Extent) error {
	if e.Logical >= m.end {
		return nil
	}
	e.Length = min(e.Length, m.end-e.Logical)
	if e.Physical == 0 || e.Physical >= m.fs.blocks || e.Length > m.fs.blocks-e.Physical {
		return corrupt("%d blocks at %d", e.Length, e.Physical)
	}
	if n := len(m.list); n > 0 {
		last := &m.list[n-1]
		if e.Logical < last.Logical+last.Length {
			return corrupt("block %d is told twice", e.Logical)
		}
		if e.Logical == last.Logical+last.Length && e.Physical == last.Physical+last.Length && e.Unwritten == last.Unwritten {
			last.Length += e.Length
			return nil
		}
	}
	if len(m.list) == maxExtents {
		return fmt.Errorf("%w: it has more than %d pieces", ErrTooLarge, maxExtents)
	}
	m.list = append(m.list, e)
	return nil
}

// node reads a node of an extent tree, which must have a depth; the root, for which
// depth is negative, may have any.
func (m *mapper) node(raw []byte, depth int) error {
	if err := m.visit(); err != nil {
		return err
	}
	le := binary.LittleEndian
	count, has := int(le.Uint16(raw[2:])), int(le.Uint16(raw[6:]))
	if le.Uint16(raw) != extentMagic || count*12 > len(raw)-12 || has > maxDepth || depth >= 0 && has != depth {
		return corrupt("a node with %d entries of depth %d", count, has)
	}
	for n := range count {
		entry := raw[12+n*12:]
		if has > 0 {
			child, err := m.fs.block(uint64(le.Uint32(entry[4:])) | uint64(le.Uint16(entry[8:]))<<32)
			if err != nil {
				return err
			}
			if err := m.node(child, has-1); err != nil {
				return err
			}
			continue
		}
		e := Extent{
			Logical: uint64(le.Uint32(entry)), Length: uint64(le.Uint16(entry[4:])),
			Physical: uint64(le.Uint32(entry[8:])) | uint64(le.Uint16(entry[6:]))<<32,
		}
		if e.Length > 1<<15 {
			e.Length, e.Unwritten = e.Length-1<<15, true
		}
		if e.Length == 0 {
			return corrupt("an extent without blocks")
		}
		if err := m.add(e); err != nil {
			return err
		}
	}
	return nil
}

// pointers reads the blocks of a file as ext2 has them: twelve, and then those that
// one, two and three steps of indirection tell.
func (m *mapper) pointers() error {
	logical := uint64(0)
	for n := range 12 {
		if err := m.pointer(binary.LittleEndian.Uint32(m.ino.block[n*4:]), logical); err != nil {
			return err
		}
		logical++
	}
	for depth := 1; depth <= 3 && logical < m.end; depth++ {
		at := binary.LittleEndian.Uint32(m.ino.block[44+depth*4:])
		if err := m.indirect(at, logical, depth); err != nil {
			return err
		}
		logical += m.span(depth)
	}
	return nil
}

// span is how many blocks a step of indirection stands for.
func (m *mapper) span(depth int) uint64 {
	n := uint64(1)
	for range depth {
		n *= uint64(m.fs.blockSize / 4)
	}
	return n
}

func (m *mapper) pointer(at uint32, logical uint64) error {
	if at == 0 {
		return nil
	}
	return m.add(Extent{Logical: logical, Physical: uint64(at), Length: 1})
}

func (m *mapper) indirect(at uint32, logical uint64, depth int) error {
	if at == 0 {
		return nil
	}
	if err := m.visit(); err != nil {
		return err
	}
	raw, err := m.fs.block(uint64(at))
	if err != nil {
		return err
	}
	step := m.span(depth - 1)
	for p := 0; p+4 <= len(raw) && logical < m.end; p += 4 {
		next := binary.LittleEndian.Uint32(raw[p:])
		if depth == 1 {
			err = m.pointer(next, logical)
		} else {
			err = m.indirect(next, logical, depth-1)
		}
		if err != nil {
			return err
		}
		logical += step
	}
	return nil
}

// File reads the contents of a file.
type File struct {
	fs      *FS
	size    int64
	extents []Extent
	inline  []byte
	block   []byte // for parts of blocks
}

// OpenFile opens a file of any kind that has contents.
func (fs *FS) OpenFile(i *Inode) (*File, error) {
	f := &File{fs: fs, size: i.Size}
	if i.flags&flagInline != 0 {
		data, err := fs.inlineData(i)
		if err != nil {
			return nil, err
		}
		if int64(len(data)) < i.Size {
			return nil, corrupt("inode %d holds %d of its %d bytes", i.Number, len(data), i.Size)
		}
		f.inline = data[:i.Size]
		return f, nil
	}
	var err error
	f.extents, err = fs.Extents(i)
	return f, err
}

// Size of the file in bytes.
func (f *File) Size() int64 { return f.size }

// Next finds the next byte at or after an offset that is not in a hole, and how many
// of such follow it; false when there is none.
func (f *File) Next(off int64) (at, n int64, ok bool) {
	if f.inline != nil {
		return off, f.size - off, off < f.size
	}
	bs := f.fs.blockSize
	i := sort.Search(len(f.extents), func(i int) bool {
		return int64(f.extents[i].Logical+f.extents[i].Length)*bs > off
	})
	for ; i < len(f.extents); i++ {
		e := f.extents[i]
		if e.Unwritten {
			continue
		}
		at = max(off, int64(e.Logical)*bs)
		n = min(f.size, int64(e.Logical+e.Length)*bs) - at
		return at, n, n > 0
	}
	return 0, 0, false
}

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= f.size {
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > f.size-off {
		p, end = p[:f.size-off], io.EOF
	}
	if f.inline != nil {
		return copy(p, f.inline[off:]), end
	}
	for done := 0; done < len(p); {
		n, err := f.readSome(p[done:], off+int64(done))
		if err != nil {
			return done, err
		}
		done += n
	}
	return len(p), end
}

// readSome reads as far as one extent or one hole goes.
func (f *File) readSome(p []byte, off int64) (int, error) {
	bs := f.fs.blockSize
	logical, inside := uint64(off/bs), off%bs
	i := sort.Search(len(f.extents), func(i int) bool { return f.extents[i].Logical+f.extents[i].Length > logical })
	if i == len(f.extents) {
		clear(p)
		return len(p), nil
	}
	e := f.extents[i]
	if e.Logical > logical || e.Unwritten {
		end := e.Logical
		if e.Logical <= logical {
			end = e.Logical + e.Length
		}
		p = p[:min(int64(len(p)), int64(end)*bs-off)]
		clear(p)
		return len(p), nil
	}
	p = p[:min(int64(len(p)), int64(e.Logical+e.Length)*bs-off)]
	at := e.Physical + logical - e.Logical
	if whole := int64(len(p)) / bs * bs; inside == 0 && whole > 0 {
		return int(whole), f.fs.readBlocks(p[:whole], at)
	}
	if f.block == nil {
		f.block = make([]byte, bs)
	}
	if err := f.fs.readBlocks(f.block, at); err != nil {
		return 0, err
	}
	return copy(p, f.block[inside:]), nil
}
