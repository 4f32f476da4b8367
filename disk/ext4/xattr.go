package ext4

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"strings"
)

const (
	xattrMagic = 0xea020000
	// systemData is what inline data is kept under: "data" of the index system.
	systemIndex = 7
	systemData  = "data"
	maxXattrs   = 4096
)

// Xattr is an extended attribute. Its name stands without its prefix.
type Xattr struct {
	Index uint8
	Name  string
	Value string
}

// IsContent tells whether the attribute holds a part of an inline file.
func (x Xattr) IsContent() bool { return x.Index == systemIndex && x.Name == systemData }

// Compare orders attributes by name.
func (x Xattr) Compare(y Xattr) int {
	return cmp.Or(cmp.Compare(x.Index, y.Index), strings.Compare(x.Name, y.Name), strings.Compare(x.Value, y.Value))
}

// Xattrs reads the extended attributes of a file. Values that lie in inodes of their
// own are told by the number of that inode only.
func (fs *FS) Xattrs(i *Inode) ([]Xattr, error) {
	var list []Xattr
	var err error
	if len(i.extra) >= 4 && binary.LittleEndian.Uint32(i.extra) == xattrMagic {
		if list, err = parseXattrs(i.extra[4:], i.extra[4:]); err != nil {
			return nil, fmt.Errorf("attributes of inode %d: %w", i.Number, err)
		}
	}
	if i.acl == 0 {
		return list, nil
	}
	b, err := fs.block(i.acl)
	if err != nil {
		return nil, fmt.Errorf("attributes of inode %d: %w", i.Number, err)
	}
	if binary.LittleEndian.Uint32(b) != xattrMagic {
		return nil, fmt.Errorf("attributes of inode %d: %w", i.Number, corrupt("block %d does not hold them", i.acl))
	}
	more, err := parseXattrs(b[32:], b)
	if err != nil {
		return nil, fmt.Errorf("attributes of inode %d: %w", i.Number, err)
	}
	return append(list, more...), nil
}

// parseXattrs reads entries; the offsets of their values count from base.
func parseXattrs(b, base []byte) ([]Xattr, error) {
	le := binary.LittleEndian
	var list []Xattr
	for p := 0; p+16 <= len(b) && le.Uint32(b[p:]) != 0; {
		length, offset := int(b[p]), int(le.Uint16(b[p+2:]))
		inode, size := le.Uint32(b[p+4:]), int(le.Uint32(b[p+8:]))
		if p+16+length > len(b) || len(list) == maxXattrs {
			return nil, corrupt("an entry at %d", p)
		}
		x := Xattr{Index: b[p+1], Name: string(b[p+16 : p+16+length])}
		switch {
		case inode != 0:
			x.Value = fmt.Sprintf("inode %d", inode)
		case size < 0 || offset > len(base) || size > len(base)-offset:
			return nil, corrupt("a value of %d bytes at %d", size, offset)
		default:
			x.Value = string(base[offset : offset+size])
		}
		list = append(list, x)
		p += (16 + length + 3) &^ 3
	}
	return list, nil
}

// inlineData is what an inode holds of a file or directory: the 60 bytes of the
// block map, and more as an attribute.
func (fs *FS) inlineData(i *Inode) ([]byte, error) {
	data := append([]byte(nil), i.block[:]...)
	list, err := fs.Xattrs(i)
	if err != nil {
		return nil, err
	}
	for _, x := range list {
		if x.IsContent() {
			data = append(data, x.Value...)
		}
	}
	return data, nil
}
