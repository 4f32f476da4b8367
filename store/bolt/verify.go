package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// bbolt trusts its file: on a damaged one it panics, faults or never ends. So
// the file is read here first, with bounds on everything.
//
//	page 0, 1   headers, written in turn; bbolt checks these
//	page 2…     in any order, each used at most once:
//	            branch page ─▶ pages, by their first key
//	            leaf page ─▶ keys with values; a value may be a bucket: the
//	                         number of its first page, or a leaf page inside
//	            freelist page ─▶ the pages that hold nothing
//
// A page is its number (8 bytes), kind (2), count of elements (2) and how many
// more pages it takes (4), then the elements. Numbers are of the host's order.
const (
	pageHeader = 16

	kindBranch   = 0x01
	kindLeaf     = 0x02
	kindFreelist = 0x10

	branchElement = 16 // offset of the key from here (4), its length (4), page (8)
	leafElement   = 16 // flags (4), offset of key and value from here (4), their lengths (4, 4)
	flagBucket    = 0x01
	bucketHeader  = 16 // first page or 0 (8), sequence (8)

	// In a header page, after the page header.
	metaRoot     = 16
	metaFreelist = 32
	metaPages    = 40
	metaSize     = 48
	noFreelist   = 1<<64 - 1
)

var host = binary.NativeEndian

// verifier reads a file page by page.
type verifier struct {
	file     io.ReaderAt
	pageSize uint64
	seen     []bool // by page number
}

// page is a page with those that it overflows into.
type page struct {
	number uint64
	kind   uint16
	count  int
	data   []byte
}

// verify checks the structure of a bbolt file of size bytes, from the header
// page that is current: a file that passes can be read by bbolt.
func verify(file io.ReaderAt, size int64, pageSize int, header int) error {
	meta := make([]byte, metaSize)
	if _, err := file.ReadAt(meta, int64(header*pageSize+pageHeader)); err != nil {
		return err
	}
	pages := host.Uint64(meta[metaPages:])
	if have := uint64(size) / uint64(pageSize); pages > have {
		return fmt.Errorf("it has %d pages of %d", have, pages)
	}
	v := verifier{file: file, pageSize: uint64(pageSize), seen: make([]bool, pages)}
	if err := v.tree(host.Uint64(meta[metaRoot:]), nil, nil); err != nil {
		return err
	}
	if freelist := host.Uint64(meta[metaFreelist:]); freelist != noFreelist {
		return v.freelist(freelist)
	}
	return nil
}

// read reads a page and marks it as seen.
func (v *verifier) read(number uint64) (page, error) {
	if err := v.see(number); err != nil {
		return page{}, err
	}
	header := make([]byte, pageHeader)
	if _, err := v.file.ReadAt(header, int64(number*v.pageSize)); err != nil {
		return page{}, err
	}
	more := uint64(host.Uint32(header[12:]))
	if host.Uint64(header) != number || more >= uint64(len(v.seen))-number {
		return page{}, fmt.Errorf("page %d is not a page", number)
	}
	for i := range more {
		if err := v.see(number + 1 + i); err != nil {
			return page{}, err
		}
	}
	p := page{
		number: number,
		kind:   host.Uint16(header[8:]),
		count:  int(host.Uint16(header[10:])),
		data:   make([]byte, (more+1)*v.pageSize),
	}
	_, err := v.file.ReadAt(p.data, int64(number*v.pageSize))
	return p, err
}

func (v *verifier) see(number uint64) error {
	if number < 2 || number >= uint64(len(v.seen)) {
		return fmt.Errorf("it refers to page %d, which it does not have", number)
	}
	if v.seen[number] {
		return fmt.Errorf("page %d is used twice", number)
	}
	v.seen[number] = true
	return nil
}

// tree checks a page and all below it. Their keys are low or above, and below
// high; nil is no bound. It ends, because no page is seen twice.
func (v *verifier) tree(number uint64, low, high []byte) error {
	p, err := v.read(number)
	if err != nil {
		return err
	}
	switch p.kind {
	case kindBranch:
		return v.branch(p, low, high)
	case kindLeaf:
		return v.leaf(p, low, high, true)
	}
	return fmt.Errorf("page %d of kind %#x is in a tree", number, p.kind)
}

func (v *verifier) branch(p page, low, high []byte) error {
	if p.count == 0 {
		return fmt.Errorf("page %d leads nowhere", p.number)
	}
	keys, children := make([][]byte, p.count), make([]uint64, p.count)
	for i := range p.count {
		at := pageHeader + i*branchElement
		e, err := p.bytes(at, branchElement)
		if err != nil {
			return err
		}
		keys[i], err = p.bytes(at+int(host.Uint32(e)), int(host.Uint32(e[4:])))
		if err != nil {
			return err
		}
		children[i] = host.Uint64(e[8:])
	}
	if err := p.inOrder(keys, low, high); err != nil {
		return err
	}
	for i, child := range children {
		next := high
		if i+1 < p.count {
			next = keys[i+1]
		}
		if err := v.tree(child, keys[i], next); err != nil {
			return err
		}
	}
	return nil
}

// leaf checks a leaf page; buckets says whether it may hold buckets.
func (v *verifier) leaf(p page, low, high []byte, buckets bool) error {
	keys := make([][]byte, p.count)
	for i := range p.count {
		at := pageHeader + i*leafElement
		e, err := p.bytes(at, leafElement)
		if err != nil {
			return err
		}
		flags, offset := host.Uint32(e), at+int(host.Uint32(e[4:]))
		keySize, valueSize := int(host.Uint32(e[8:])), int(host.Uint32(e[12:]))
		if keys[i], err = p.bytes(offset, keySize); err != nil {
			return err
		}
		value, err := p.bytes(offset+keySize, valueSize)
		if err != nil {
			return err
		}
		if flags&flagBucket != 0 {
			if !buckets {
				return fmt.Errorf("page %d has a bucket in a bucket without pages", p.number)
			}
			if err := v.bucket(p.number, value); err != nil {
				return err
			}
		}
	}
	return p.inOrder(keys, low, high)
}

// bucket checks a bucket that is a value in a page.
func (v *verifier) bucket(number uint64, value []byte) error {
	if len(value) < bucketHeader {
		return fmt.Errorf("page %d has half a bucket", number)
	}
	if root := host.Uint64(value); root != 0 {
		return v.tree(root, nil, nil)
	}
	inside := page{number: number, data: value[bucketHeader:]}
	header, err := inside.bytes(0, pageHeader)
	if err != nil {
		return err
	}
	inside.kind, inside.count = host.Uint16(header[8:]), int(host.Uint16(header[10:]))
	if inside.kind != kindLeaf {
		return fmt.Errorf("page %d has a bucket of kind %#x", number, inside.kind)
	}
	return v.leaf(inside, nil, nil, false)
}

// freelist checks that no free page is in use.
func (v *verifier) freelist(number uint64) error {
	p, err := v.read(number)
	if err != nil {
		return err
	}
	if p.kind != kindFreelist {
		return fmt.Errorf("page %d of kind %#x should be the list of free pages", number, p.kind)
	}
	at, count := pageHeader, uint64(p.count)
	if p.count == 0xffff { // too many for the header
		first, err := p.bytes(at, 8)
		if err != nil {
			return err
		}
		at, count = at+8, host.Uint64(first)
	}
	last := uint64(0)
	for range count {
		b, err := p.bytes(at, 8)
		if err != nil {
			return err
		}
		free := host.Uint64(b)
		if free <= last {
			return errors.New("the list of free pages is out of order")
		}
		if err := v.see(free); err != nil {
			return err
		}
		at, last = at+8, free
	}
	return nil
}

// bytes returns a part of the page.
func (p page) bytes(at, size int) ([]byte, error) {
	if at < 0 || size < 0 || at > len(p.data) || size > len(p.data)-at {
		return nil, fmt.Errorf("page %d refers to bytes beyond its end", p.number)
	}
	return p.data[at : at+size], nil
}

func (p page) inOrder(keys [][]byte, low, high []byte) error {
	for i, key := range keys {
		if i > 0 && bytes.Compare(keys[i-1], key) >= 0 ||
			low != nil && bytes.Compare(key, low) < 0 ||
			high != nil && bytes.Compare(key, high) >= 0 {
			return fmt.Errorf("the keys of page %d are out of order", p.number)
		}
	}
	return nil
}
