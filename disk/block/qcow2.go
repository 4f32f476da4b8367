package block

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
)

const (
	qcow2Magic = 0x514649fb // "QFI\xfb"

	qcow2Offset     = 0x00fffffffffffe00 // of a table or a cluster, in an entry
	qcow2Compressed = 1 << 62
	qcow2ZeroFlag   = 1

	// Bits of the incompatible features.
	qcow2Dirty       = 1 << 0 // of reference counts, which are not read
	qcow2Corrupt     = 1 << 1 // likewise
	qcow2DataFile    = 1 << 2
	qcow2Compression = 1 << 3
	qcow2ExtendedL2  = 1 << 4

	// maxL1 bounds the first table, in bytes: QEMU's own bound.
	maxL1 = 32 << 20
	// maxTables bounds the second tables that are kept in memory, in bytes.
	maxTables = 16 << 20
)

// qcow2 is a file of that format, version 2 or 3. Its backing file's name, its
// snapshots and its reference counts are not looked at.
type qcow2 struct {
	f           File
	fileSize    int64
	size        int64
	clusterBits uint
	version     uint32
	zstd        bool
	l1          []uint64

	tables map[uint64][]uint64 // by offset in the file
	// unpacked is the compressed cluster that was read last.
	unpacked   []byte
	unpackedAt uint64
}

func openQCOW2(f File, fileSize int64) (*qcow2, error) {
	head := make([]byte, 112)
	if n, err := f.ReadAt(head, 0); n < 72 {
		return nil, fmt.Errorf("qcow2: %w: its header cannot be read: %v", ErrFormat, err)
	}
	be := binary.BigEndian
	q := &qcow2{f: f, fileSize: fileSize, version: be.Uint32(head[4:]), tables: map[uint64][]uint64{}, unpackedAt: math.MaxUint64}
	if be.Uint32(head) != qcow2Magic {
		return nil, fmt.Errorf("qcow2: %w: it does not begin as one", ErrFormat)
	}
	bits, size := be.Uint32(head[20:]), be.Uint64(head[24:])
	if bits < 9 || bits > 21 {
		return nil, fmt.Errorf("qcow2: %w: clusters of 2^%d bytes", ErrFormat, bits)
	}
	q.clusterBits = uint(bits)
	if size > math.MaxInt64>>1 {
		return nil, fmt.Errorf("qcow2: %w: a disk of %d bytes", ErrFormat, size)
	}
	q.size = int64(size)
	if be.Uint32(head[32:]) != 0 {
		return nil, fmt.Errorf("qcow2: %w: it is encrypted", ErrUnsupported)
	}
	if err := q.features(head); err != nil {
		return nil, err
	}
	return q, q.readL1(be.Uint32(head[36:]), be.Uint64(head[40:]))
}

// features reads what version 3 adds to the header.
func (q *qcow2) features(head []byte) error {
	switch q.version {
	case 2:
		return nil
	case 3:
	default:
		return fmt.Errorf("qcow2: version %d: %w", q.version, ErrUnsupported)
	}
	incompatible, length := binary.BigEndian.Uint64(head[72:]), binary.BigEndian.Uint32(head[100:])
	switch {
	case incompatible&qcow2DataFile != 0:
		return fmt.Errorf("qcow2: %w: its data is in another file", ErrUnsupported)
	case incompatible&qcow2ExtendedL2 != 0:
		return fmt.Errorf("qcow2: %w: it has extended L2 entries", ErrUnsupported)
	case incompatible&^(qcow2Dirty|qcow2Corrupt|qcow2Compression) != 0:
		return fmt.Errorf("qcow2: %w: incompatible features %#x", ErrUnsupported, incompatible)
	case length < 104:
		return fmt.Errorf("qcow2: %w: a header of %d bytes", ErrFormat, length)
	}
	if incompatible&qcow2Compression != 0 {
		if length <= 104 || head[104] > 1 {
			return fmt.Errorf("qcow2: %w: compression type %d", ErrUnsupported, head[104])
		}
		q.zstd = head[104] == 1
	}
	return nil
}

func (q *qcow2) readL1(entries uint32, at uint64) error {
	perL1 := q.clusterBits + q.clusterBits - 3 // bits of the disk that one entry stands for
	needed := uint64(0)
	if q.size > 0 {
		needed = (uint64(q.size)-1)>>perL1 + 1
	}
	switch {
	case uint64(entries) < needed:
		return fmt.Errorf("qcow2: %w: %d L1 entries for %d bytes", ErrFormat, entries, q.size)
	case needed*8 > maxL1 || !q.inFile(at, needed*8):
		return fmt.Errorf("qcow2: %w: its L1 table of %d entries does not lie in the file", ErrFormat, entries)
	}
	raw := make([]byte, needed*8)
	if _, err := readFull(q.f, raw, int64(at)); err != nil {
		return fmt.Errorf("qcow2: its L1 table: %w", err)
	}
	q.l1 = words(raw)
	return nil
}

func words(raw []byte) []uint64 {
	list := make([]uint64, len(raw)/8)
	for i := range list {
		list[i] = binary.BigEndian.Uint64(raw[i*8:])
	}
	return list
}

func (q *qcow2) inFile(at, n uint64) bool {
	return at <= uint64(q.fileSize) && n <= uint64(q.fileSize)-at
}

func (q *qcow2) Size() int64 { return q.size }

// table reads a second table, or finds it.
func (q *qcow2) table(at uint64) ([]uint64, error) {
	if t, ok := q.tables[at]; ok {
		return t, nil
	}
	cluster := uint64(1) << q.clusterBits
	if at%cluster != 0 || !q.inFile(at, cluster) {
		return nil, fmt.Errorf("qcow2: %w: an L2 table at %#x", ErrFormat, at)
	}
	raw := make([]byte, cluster)
	if _, err := readFull(q.f, raw, int64(at)); err != nil {
		return nil, fmt.Errorf("qcow2: the L2 table at %#x: %w", at, err)
	}
	if uint64(len(q.tables)+1)*cluster > maxTables {
		clear(q.tables)
	}
	t := words(raw)
	q.tables[at] = t
	return t, nil
}

// entries returns the second table of an offset and the index in it; the table is
// nil when there is none.
func (q *qcow2) entries(off int64) ([]uint64, int, error) {
	l2Bits := q.clusterBits - 3
	l1 := off >> (q.clusterBits + l2Bits)
	if l1 < 0 || l1 >= int64(len(q.l1)) {
		return nil, 0, fmt.Errorf("qcow2: %w: offset %d beyond its tables", ErrFormat, off)
	}
	index := int(off>>q.clusterBits) & (1<<l2Bits - 1)
	at := q.l1[l1] & qcow2Offset
	if at == 0 {
		return nil, index, nil
	}
	t, err := q.table(at)
	return t, index, err
}

func (q *qcow2) state(entry uint64) State {
	switch {
	case entry&qcow2Compressed != 0:
		return Data
	case q.version >= 3 && entry&qcow2ZeroFlag != 0:
		return Zero
	case entry&qcow2Offset == 0:
		return Absent
	default:
		return Data
	}
}

// Lookup implements Layer.
func (q *qcow2) Lookup(off, n int64) (State, int64, error) {
	t, index, err := q.entries(off)
	if err != nil {
		return Absent, 0, err
	}
	cluster := int64(1) << q.clusterBits
	inside := off & (cluster - 1)
	if t == nil {
		return Absent, min(n, int64(1<<(q.clusterBits-3)-index)*cluster-inside), nil
	}
	state, run := q.state(t[index]), cluster-inside
	for i := index + 1; run < n && i < len(t) && q.state(t[i]) == state; i++ {
		run += cluster
	}
	return state, min(n, run), nil
}

// ReadAt implements Layer.
func (q *qcow2) ReadAt(p []byte, off int64) (int, error) {
	cluster := int64(1) << q.clusterBits
	for done := 0; done < len(p); {
		at := off + int64(done)
		t, index, err := q.entries(at)
		if err != nil {
			return done, err
		}
		if t == nil || q.state(t[index]) != Data {
			return done, fmt.Errorf("qcow2: %w: no data at %d", ErrFormat, at)
		}
		inside := at & (cluster - 1)
		part := p[done:min(len(p), done+int(cluster-inside))]
		if err := q.readCluster(part, t[index], inside); err != nil {
			return done, fmt.Errorf("qcow2: the cluster of offset %d: %w", at, err)
		}
		done += len(part)
	}
	return len(p), nil
}

func (q *qcow2) readCluster(p []byte, entry uint64, inside int64) error {
	if entry&qcow2Compressed != 0 {
		if err := q.unpack(entry); err != nil {
			return err
		}
		copy(p, q.unpacked[inside:])
		return nil
	}
	at := entry & qcow2Offset
	if at&(1<<q.clusterBits-1) != 0 || at >= uint64(q.fileSize) {
		return fmt.Errorf("%w: it lies at %#x of a file of %d bytes", ErrFormat, at, q.fileSize)
	}
	n, err := q.f.ReadAt(p, int64(at)+inside)
	if err == io.EOF { // QEMU does not fill the last cluster of a file
		clear(p[n:])
		return nil
	}
	return err
}

// unpack makes q.unpacked the contents of a compressed cluster.
func (q *qcow2) unpack(entry uint64) error {
	if entry == q.unpackedAt {
		return nil
	}
	bits := 62 - (q.clusterBits - 8)
	at := entry & (1<<bits - 1)
	sectors := entry&(qcow2Compressed-1)>>bits + 1
	length := sectors*512 - at%512
	if at >= uint64(q.fileSize) {
		return fmt.Errorf("%w: it is compressed at %#x, beyond the file", ErrFormat, at)
	}
	// The last sector may be cut off by the file's end.
	packed := make([]byte, min(length, uint64(q.fileSize)-at))
	if _, err := readFull(q.f, packed, int64(at)); err != nil {
		return err
	}
	out := make([]byte, 1<<q.clusterBits)
	q.unpackedAt = math.MaxUint64
	if err := q.inflate(out, packed); err != nil {
		return fmt.Errorf("%w: it cannot be decompressed: %v", ErrFormat, err)
	}
	q.unpacked, q.unpackedAt = out, entry
	return nil
}

func (q *qcow2) inflate(out, packed []byte) error {
	if !q.zstd {
		_, err := io.ReadFull(flate.NewReader(bytes.NewReader(packed)), out)
		return err
	}
	d, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(64<<20), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return err
	}
	defer d.Close()
	_, err = io.ReadFull(d, out)
	return err
}
