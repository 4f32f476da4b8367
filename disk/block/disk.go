package block

import (
	"fmt"
	"io"
)

// Source says where a range of a disk comes from. Ranges at the same offset of two
// disks that have equal sources have equal contents, without a look at them.
type Source struct {
	// Layer is the identity of the layer's file; 0 when the range is zeros.
	Layer int
}

// Disk is composed of layers. It is not safe for concurrent use.
type Disk struct {
	layers []Layer
	ids    []int
	size   int64
}

// Compose makes a Disk of layers, the top one first. ids tell which file each layer
// is: the same number, greater than 0, for the same file. size is that of the disk.
func Compose(layers []Layer, ids []int, size int64) (*Disk, error) {
	if len(layers) == 0 || len(layers) != len(ids) {
		return nil, fmt.Errorf("%d layers with %d identities: %w", len(layers), len(ids), ErrFormat)
	}
	if size <= 0 {
		size = layers[0].Size()
	}
	return &Disk{layers: layers, ids: ids, size: size}, nil
}

// Size of the disk in bytes.
func (d *Disk) Size() int64 { return d.size }

// lookup finds the layer that holds an offset, nil for zeros, and how far it does.
func (d *Disk) lookup(off, n int64) (int, int64, error) {
	n = min(n, d.size-off)
	for i, l := range d.layers {
		size := l.Size()
		if off >= size {
			return -1, n, nil // whatever lies below it
		}
		n = min(n, size-off)
		state, run, err := l.Lookup(off, n)
		if err != nil {
			return -1, 0, err
		}
		n = min(n, max(run, 1))
		switch state {
		case Data:
			return i, n, nil
		case Zero:
			return -1, n, nil
		}
	}
	return -1, n, nil
}

// Source tells where a range begins to come from, and for how many bytes.
func (d *Disk) Source(off, n int64) (Source, int64, error) {
	if off < 0 || off >= d.size {
		return Source{}, n, nil
	}
	i, n, err := d.lookup(off, n)
	if err != nil || i < 0 {
		return Source{}, n, err
	}
	return Source{Layer: d.ids[i]}, n, nil
}

// ReadAt implements io.ReaderAt.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at < 0 || at >= d.size {
			return done, io.EOF
		}
		i, n, err := d.lookup(at, int64(len(p)-done))
		if err != nil {
			return done, err
		}
		part := p[done : done+int(n)]
		if i < 0 {
			clear(part)
		} else if _, err := d.layers[i].ReadAt(part, at); err != nil {
			return done, err
		}
		done += int(n)
	}
	return done, nil
}
