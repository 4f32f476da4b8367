// Package block reads the files that a virtual disk is made of.
//
//	offset in the disk ─▶ layer 0 ── absent ─▶ layer 1 ── absent ─▶ … ─▶ zeros
//	                        │ data, zeros        │ data, zeros
//	                        ▼                    ▼
//
// A Disk is composed of layers as its caller lists them, the top one first. What
// the files themselves say of others (a backing file, a parent) is never followed.
//
// The files were written by a hypervisor on behalf of a guest, or came from
// elsewhere: every offset and every size in them is checked against the file before
// it is used, and what is kept in memory is bounded whatever they say.
package block

import (
	"errors"
	"fmt"
	"io"
)

// The kinds of errors, to be tested with errors.Is.
var (
	// ErrFormat: the file is not what its format says.
	ErrFormat = errors.New("malformed")
	// ErrUnsupported: the file uses something that is not read here.
	ErrUnsupported = errors.New("not supported")
)

// File is a layer's file.
type File interface {
	io.ReaderAt
}

// State is what a layer says of a range.
type State int

// The states of a range.
const (
	// Absent: the layers below hold it.
	Absent State = iota
	// Zero: it reads as zeros.
	Zero
	// Data: the layer holds it.
	Data
)

// Layer is one file of a disk. It is not safe for concurrent use.
type Layer interface {
	// Size of the disk as the layer tells it, in bytes.
	Size() int64
	// Lookup tells the state at an offset below Size, and for how many bytes, at
	// least one and at most n, it is the same.
	Lookup(off, n int64) (State, int64, error)
	// ReadAt reads a range that Lookup calls Data as a whole.
	ReadAt(p []byte, off int64) (int, error)
}

// Open opens a layer: its file, the file's size, and its format.
func Open(f File, size int64, format string) (Layer, error) {
	switch format {
	case "raw":
		return raw{f, size}, nil
	case "qcow2":
		return openQCOW2(f, size)
	case "vdi":
		return openVDI(f, size)
	default:
		return nil, fmt.Errorf("disk format %q: %w", format, ErrUnsupported)
	}
}

// raw is a file that is the disk itself.
type raw struct {
	f    File
	size int64
}

func (r raw) Size() int64 { return r.size }

func (r raw) Lookup(off, n int64) (State, int64, error) { return Data, min(n, r.size-off), nil }

func (r raw) ReadAt(p []byte, off int64) (int, error) { return readFull(r.f, p, off) }

// readFull reads all of p; a file that ends before is no error of the reader's.
func readFull(f File, p []byte, off int64) (int, error) {
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		return n, fmt.Errorf("%w: it ends at %d, before %d", ErrFormat, off+int64(n), off+int64(len(p)))
	}
	return n, err
}
