package unattended

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// Bounds of what is read of an ISO that may say anything.
const (
	sector         = 2048
	maxDescriptors = 32
	maxDirectory   = 1 << 20
)

// errNotOnCD: the ISO has no such file.
var errNotOnCD = errors.New("not on the CD")

// cd reads files of an ISO 9660 image (ECMA-119), by their Joliet names where it
// has them, and else by those of Rock Ridge or by the standard's own.
type cd struct {
	r      io.ReaderAt
	size   int64
	root   extent
	joliet bool
}

// extent is a file's place in the image.
type extent struct {
	at, size int64
	dir      bool
}

// openCD finds the root directory of an image of some size.
func openCD(r io.ReaderAt, size int64) (*cd, error) {
	c := &cd{r: r, size: size}
	found := false
	for i := range int64(maxDescriptors) {
		b := make([]byte, sector)
		if _, err := r.ReadAt(b, (16+i)*sector); err != nil || string(b[1:6]) != "CD001" {
			return nil, fmt.Errorf("it is not an ISO 9660 image")
		}
		joliet := b[0] == 2 && b[88] == '%' && b[89] == '/' && strings.IndexByte("@CE", b[90]) >= 0
		switch {
		case b[0] == 255:
			if !found {
				return nil, fmt.Errorf("it has no volume descriptor")
			}
			return c, nil
		case b[0] == 1 && !found, joliet:
			root, _, ok := parseRecord(b[156 : 156+34])
			if !ok || !root.dir {
				return nil, fmt.Errorf("its volume descriptor is damaged")
			}
			c.root, c.joliet, found = root, joliet, true
		}
	}
	return nil, fmt.Errorf("it has too many volume descriptors")
}

// open finds a file by its path.
func (c *cd) open(path string) (*io.SectionReader, error) {
	at := c.root
	for _, name := range strings.Split(path, "/") {
		if !at.dir {
			return nil, errNotOnCD
		}
		var err error
		if at, err = c.lookup(at, name); err != nil {
			return nil, err
		}
	}
	if at.dir {
		return nil, errNotOnCD
	}
	if at.at < 0 || at.size < 0 || at.at > c.size || at.size > c.size-at.at {
		return nil, fmt.Errorf("%s lies beyond its end", path)
	}
	return io.NewSectionReader(c.r, at.at, at.size), nil
}

// lookup finds a name in a directory.
func (c *cd) lookup(dir extent, name string) (extent, error) {
	if dir.size > maxDirectory {
		return extent{}, fmt.Errorf("one of its directories has %d bytes", dir.size)
	}
	b := make([]byte, dir.size)
	if _, err := c.r.ReadAt(b, dir.at); err != nil {
		return extent{}, fmt.Errorf("one of its directories cannot be read: %w", err)
	}
	for len(b) > 0 {
		n := int(b[0])
		if n == 0 { // records do not go over a sector's end
			used := int(dir.size) - len(b)
			b = b[min(len(b), sector-used%sector):]
			continue
		}
		if n > len(b) {
			return extent{}, fmt.Errorf("one of its directories is damaged")
		}
		e, id, ok := parseRecord(b[:n])
		if !ok {
			return extent{}, fmt.Errorf("one of its directories is damaged")
		}
		if c.nameOf(b[:n], id) == name {
			if b[25]&0x80 != 0 {
				return extent{}, fmt.Errorf("%s is in several parts", name)
			}
			return e, nil
		}
		b = b[n:]
	}
	return extent{}, errNotOnCD
}

// parseRecord reads a directory record.
func parseRecord(b []byte) (extent, []byte, bool) {
	if len(b) < 34 || 33+int(b[32]) > len(b) {
		return extent{}, nil, false
	}
	return extent{
		at:   int64(binary.LittleEndian.Uint32(b[2:])) * sector,
		size: int64(binary.LittleEndian.Uint32(b[10:])),
		dir:  b[25]&2 != 0,
	}, b[33 : 33+int(b[32])], true
}

// nameOf is a record's name.
func (c *cd) nameOf(record, id []byte) string {
	var name string
	if c.joliet {
		var units []uint16
		for ; len(id) > 1; id = id[2:] {
			units = append(units, binary.BigEndian.Uint16(id))
		}
		name = string(utf16.Decode(units))
	} else if name = rockRidge(record[33+len(id):]); name == "" {
		name = strings.ToLower(string(id))
	}
	name, _, _ = strings.Cut(name, ";")
	return strings.TrimSuffix(name, ".")
}

// rockRidge finds the name in a record's system use area.
func rockRidge(b []byte) string {
	var name []byte
	if i := bytes.Index(b, []byte("NM")); i == 1 { // a byte that makes the name's length even
		b = b[1:]
	}
	for len(b) >= 4 && int(b[2]) >= 4 && int(b[2]) <= len(b) {
		if b[0] == 'N' && b[1] == 'M' && b[2] > 5 {
			name = append(name, b[5:b[2]]...)
		}
		b = b[b[2]:]
	}
	return string(name)
}
