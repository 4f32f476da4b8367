package ext4

import (
	"encoding/binary"
	"fmt"
	"io"
	"sort"
	"strings"
)

// maxEntries bounds a directory.
const maxEntries = 1 << 20

// Entry is a name in a directory.
type Entry struct {
	Name  string
	Inode uint32
}

// ReadDir reads a directory, sorted by name and without "." and "..". The blocks
// that index a large directory read as empty ones.
func (fs *FS) ReadDir(i *Inode) ([]Entry, error) {
	if !i.IsDir() {
		return nil, ErrNotDir
	}
	d := &dirReader{}
	if err := d.read(fs, i); err != nil {
		return nil, fmt.Errorf("directory %d: %w", i.Number, err)
	}
	sort.SliceStable(d.list, func(a, b int) bool { return d.list[a].Name < d.list[b].Name })
	for n := 1; n < len(d.list); n++ {
		if d.list[n].Name == d.list[n-1].Name {
			return nil, fmt.Errorf("directory %d: %w", i.Number, corrupt("it has the name %q twice", d.list[n].Name))
		}
	}
	return d.list, nil
}

type dirReader struct{ list []Entry }

func (d *dirReader) read(fs *FS, i *Inode) error {
	if i.flags&flagInline != 0 {
		data, err := fs.inlineData(i)
		if err != nil {
			return err
		}
		// The parent's number comes first; what is in the attribute is a part of
		// its own.
		if err := d.block(data[4:len(i.block)]); err != nil {
			return err
		}
		return d.block(data[len(i.block):])
	}
	f, err := fs.OpenFile(i)
	if err != nil {
		return err
	}
	b := make([]byte, fs.blockSize)
	for off := int64(0); ; {
		at, _, ok := f.Next(off)
		if !ok {
			return nil
		}
		at = at / fs.blockSize * fs.blockSize
		clear(b)
		if _, err := f.ReadAt(b, at); err != nil && err != io.EOF {
			return err
		}
		if err := d.block(b); err != nil {
			return err
		}
		off = at + fs.blockSize
	}
}

// block reads the entries of a block.
func (d *dirReader) block(b []byte) error {
	le := binary.LittleEndian
	for p := 0; p+8 <= len(b); {
		inode, size, length := le.Uint32(b[p:]), int(le.Uint16(b[p+4:])), int(b[p+6])
		if len(b) == 1<<16 && (size == 1<<16-1 || size == 0) {
			size = 1 << 16
		}
		if size < 8 || size%4 != 0 || p+size > len(b) || length+8 > size {
			return corrupt("an entry of %d bytes", size)
		}
		name := string(b[p+8 : p+8+length])
		p += size
		if inode == 0 || name == "." || name == ".." {
			continue
		}
		if name == "" || strings.ContainsAny(name, "/\x00") {
			return corrupt("the name %q", name)
		}
		if len(d.list) == maxEntries {
			return fmt.Errorf("%w: it has more than %d entries", ErrTooLarge, maxEntries)
		}
		d.list = append(d.list, Entry{name, inode})
	}
	return nil
}
