package block

import (
	"encoding/binary"
	"fmt"
	"math"
)

const (
	vdiSignature = 0xbeda107f
	vdiHeader    = 0x188
	vdiAbsent    = 0xffffffff
	vdiZero      = 0xfffffffe
	// maxVDIMap bounds the block map, in bytes: a disk of 256 TiB with the usual
	// blocks of 1 MiB.
	maxVDIMap = 1 << 30
	// minVDIBlock and maxVDIBlock bound a block, in bytes.
	minVDIBlock = 4 << 10
	maxVDIBlock = 256 << 20
)

// vdi is a disk of VirtualBox: dynamic, fixed or differencing.
type vdi struct {
	f        File
	fileSize int64
	size     int64
	block    int64
	extra    int64 // bytes before each block's data
	data     int64 // where blocks begin
	blocks   int64
	mapAt    int64

	// page is a part of the block map, and pageAt where it begins.
	page   []byte
	pageAt int64
}

// mapPage is how much of the block map is read at a time, in bytes.
const mapPage = 64 << 10

func openVDI(f File, fileSize int64) (*vdi, error) {
	head := make([]byte, vdiHeader)
	if _, err := readFull(f, head, 0); err != nil {
		return nil, fmt.Errorf("vdi: its header: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint32(head[0x40:]) != vdiSignature {
		return nil, fmt.Errorf("vdi: %w: it does not begin as one", ErrFormat)
	}
	if major := le.Uint16(head[0x46:]); major != 1 {
		return nil, fmt.Errorf("vdi: version %d: %w", major, ErrUnsupported)
	}
	if kind := le.Uint32(head[0x4c:]); kind != 1 && kind != 2 && kind != 4 {
		return nil, fmt.Errorf("vdi: image type %d: %w", kind, ErrUnsupported)
	}
	size, block := le.Uint64(head[0x170:]), le.Uint32(head[0x178:])
	v := &vdi{
		f: f, fileSize: fileSize, block: int64(block), extra: int64(le.Uint32(head[0x17c:])),
		data: int64(le.Uint32(head[0x158:])), mapAt: int64(le.Uint32(head[0x154:])),
		blocks: int64(le.Uint32(head[0x180:])), pageAt: -1,
	}
	switch {
	case size == 0 || size > math.MaxInt64>>1:
		return nil, fmt.Errorf("vdi: %w: a disk of %d bytes", ErrFormat, size)
	case v.block < minVDIBlock || v.block > maxVDIBlock || v.block&(v.block-1) != 0 || v.extra > v.block:
		return nil, fmt.Errorf("vdi: %w: blocks of %d and %d bytes", ErrFormat, v.block, v.extra)
	case (int64(size)-1)/v.block+1 > v.blocks || v.blocks*4 > maxVDIMap:
		return nil, fmt.Errorf("vdi: %w: %d blocks for %d bytes", ErrFormat, v.blocks, size)
	case v.mapAt < vdiHeader || v.mapAt+v.blocks*4 > fileSize:
		return nil, fmt.Errorf("vdi: %w: its map of %d blocks does not lie in the file", ErrFormat, v.blocks)
	}
	v.size = int64(size)
	return v, nil
}

func (v *vdi) Size() int64 { return v.size }

// entry reads the map's entry of a block.
func (v *vdi) entry(block int64) (uint32, error) {
	at := block * 4 / mapPage * mapPage
	if at != v.pageAt {
		page := make([]byte, min(mapPage, v.blocks*4-at))
		v.pageAt = -1
		if _, err := readFull(v.f, page, v.mapAt+at); err != nil {
			return 0, fmt.Errorf("vdi: its map: %w", err)
		}
		v.page, v.pageAt = page, at
	}
	return binary.LittleEndian.Uint32(v.page[block*4-at:]), nil
}

func vdiState(entry uint32) State {
	switch entry {
	case vdiAbsent:
		return Absent
	case vdiZero:
		return Zero
	default:
		return Data
	}
}

// Lookup implements Layer.
func (v *vdi) Lookup(off, n int64) (State, int64, error) {
	block := off / v.block
	if off < 0 || block >= v.blocks {
		return Absent, 0, fmt.Errorf("vdi: %w: offset %d beyond its map", ErrFormat, off)
	}
	entry, err := v.entry(block)
	if err != nil {
		return Absent, 0, err
	}
	state, run := vdiState(entry), v.block-off%v.block
	for block++; run < n && block < v.blocks; block++ {
		entry, err := v.entry(block)
		if err != nil {
			return Absent, 0, err
		}
		if vdiState(entry) != state {
			break
		}
		run += v.block
	}
	return state, min(n, run), nil
}

// ReadAt implements Layer.
func (v *vdi) ReadAt(p []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		at := off + int64(done)
		block, inside := at/v.block, at%v.block
		if at < 0 || block >= v.blocks {
			return done, fmt.Errorf("vdi: %w: offset %d beyond its map", ErrFormat, at)
		}
		entry, err := v.entry(block)
		if err != nil {
			return done, err
		}
		if vdiState(entry) != Data {
			return done, fmt.Errorf("vdi: %w: no data at %d", ErrFormat, at)
		}
		where := v.data + int64(entry)*(v.block+v.extra) + v.extra + inside
		part := p[done:min(len(p), done+int(v.block-inside))]
		if where < 0 || where+int64(len(part)) > v.fileSize {
			return done, fmt.Errorf("vdi: %w: block %d lies beyond the file", ErrFormat, block)
		}
		if _, err := readFull(v.f, part, where); err != nil {
			return done, fmt.Errorf("vdi: block %d: %w", block, err)
		}
		done += len(part)
	}
	return len(p), nil
}
