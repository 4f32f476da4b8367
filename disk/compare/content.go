package compare

import (
	"bytes"
	"errors"
	"io"

	"sandboxd.dev/sandboxd/disk/ext4"
)

// chunk is how much is compared at a time, in bytes.
const chunk = 128 << 10

func readAll(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) || errors.Is(err, io.EOF) {
		clear(p[n:])
		return nil
	}
	return err
}

// equalBytes compares what two functions read.
func (d *differ) equalBytes(a, b func(p []byte, off int64) error, size int64) (bool, error) {
	x, y := make([]byte, min(chunk, size)), make([]byte, min(chunk, size))
	for off := int64(0); off < size; {
		if err := d.ctx.Err(); err != nil {
			return false, err
		}
		n := min(chunk, size-off)
		if err := a(x[:n], off); err != nil {
			return false, err
		}
		if err := b(y[:n], off); err != nil {
			return false, err
		}
		if !bytes.Equal(x[:n], y[:n]) {
			return false, nil
		}
		off += n
	}
	return true, nil
}

// sameRange compares a range that lies at the same place of both disks. What both
// have from the same layer is not read.
func (d *differ) sameRange(at, size int64) (bool, error) {
	for size > 0 {
		a, n, err := d.from.Source(at, size)
		if err != nil {
			return false, err
		}
		b, n, err := d.to.Source(at, n)
		if err != nil {
			return false, err
		}
		if a != b {
			same, err := d.equalBytes(
				func(p []byte, off int64) error { return readAll(d.from, p, at+off) },
				func(p []byte, off int64) error { return readAll(d.to, p, at+off) }, n)
			if err != nil || !same {
				return false, err
			}
		}
		at, size = at+n, size-n
	}
	return true, nil
}

// sameContent compares two regular files of the same size.
func (d *differ) sameContent(from, to *side) (bool, error) {
	a, err := from.fs().OpenFile(from.ino)
	if err != nil {
		return false, err
	}
	b, err := to.fs().OpenFile(to.ino)
	if err != nil {
		return false, err
	}
	direct := from.vol.Start == to.vol.Start && from.fs().BlockSize() == to.fs().BlockSize()
	for off := int64(0); off < a.Size(); {
		if err := d.ctx.Err(); err != nil {
			return false, err
		}
		x, y := a.Piece(off), b.Piece(off)
		n := min(x.Length, y.Length)
		same := x.Kind == ext4.Hole && y.Kind == ext4.Hole
		switch {
		case same:
		case direct && x.Kind == ext4.OnDisk && y.Kind == ext4.OnDisk && x.At == y.At:
			same, err = d.sameRange(from.vol.Start+x.At, n)
		default:
			same, err = d.equalBytes(
				func(p []byte, o int64) error { return readAll(a, p, off+o) },
				func(p []byte, o int64) error { return readAll(b, p, off+o) }, n)
		}
		if err != nil || !same {
			return false, err
		}
		off += n
	}
	return true, nil
}
