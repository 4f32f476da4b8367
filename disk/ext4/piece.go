package ext4

import "sort"

// PieceKind says where a part of a file is.
type PieceKind int

// The kinds of pieces.
const (
	// Hole reads as zeros.
	Hole PieceKind = iota
	// OnDisk lies on the device.
	OnDisk
	// Elsewhere is in the inode, or in the journal.
	Elsewhere
)

// Piece is a part of a file that lies in one place.
type Piece struct {
	Kind PieceKind
	// At is the offset on the device, of what is OnDisk.
	At int64
	// Length in bytes.
	Length int64
}

// Piece tells where the part of a file is that begins at an offset below its size.
func (f *File) Piece(off int64) Piece {
	left, bs := f.size-off, f.fs.blockSize
	if f.inline != nil {
		return Piece{Elsewhere, 0, left}
	}
	logical := uint64(off / bs)
	i := sort.Search(len(f.extents), func(i int) bool { return f.extents[i].Logical+f.extents[i].Length > logical })
	if i == len(f.extents) {
		return Piece{Hole, 0, left}
	}
	e := f.extents[i]
	if e.Logical > logical {
		return Piece{Hole, 0, min(left, int64(e.Logical)*bs-off)}
	}
	left = min(left, int64(e.Logical+e.Length)*bs-off)
	if e.Unwritten {
		return Piece{Hole, 0, left}
	}
	first := e.Physical + logical - e.Logical
	n := uint64((off%bs + left + bs - 1) / bs)
	same := f.fs.runOf(first, n)
	p := Piece{OnDisk, int64(first)*bs + off%bs, min(left, int64(same)*bs-off%bs)}
	if f.fs.inJournal(first) {
		p.Kind = Elsewhere
	}
	return p
}

func (fs *FS) inJournal(block uint64) bool {
	_, ok := fs.newer[block]
	return ok
}

// runOf is how many of n blocks are, as the first one, in the journal or not.
func (fs *FS) runOf(first, n uint64) uint64 {
	if len(fs.newer) == 0 {
		return n
	}
	is := fs.inJournal(first)
	run := uint64(1)
	for run < n && fs.inJournal(first+run) == is {
		run++
	}
	return run
}
