package block

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// smallQCOW2 is an image with one L1 entry, one L2 table and clusters of 512 bytes.
func smallQCOW2() []byte {
	b, be := make([]byte, 8*512), binary.BigEndian
	be.PutUint32(b, qcow2Magic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], 9)
	be.PutUint64(b[24:], 64*512)
	be.PutUint32(b[36:], 1)
	be.PutUint64(b[40:], 512)
	be.PutUint32(b[100:], 104)
	be.PutUint64(b[512:], 1024)
	be.PutUint64(b[1024:], 3*512)
	be.PutUint64(b[1024+8:], qcow2ZeroFlag)
	be.PutUint64(b[1024+24:], qcow2Compressed|4*512)
	for i := 3 * 512; i < 4*512; i++ {
		b[i] = 0x5a
	}
	return b
}

func smallVDI() []byte {
	b, le := make([]byte, 0x200+3*4096), binary.LittleEndian
	le.PutUint32(b[0x40:], vdiSignature)
	le.PutUint16(b[0x46:], 1)
	le.PutUint32(b[0x4c:], 4)
	le.PutUint32(b[0x154:], 0x190)
	le.PutUint32(b[0x158:], 0x200)
	le.PutUint64(b[0x170:], 4*4096)
	le.PutUint32(b[0x178:], 4096)
	le.PutUint32(b[0x180:], 4)
	for i, e := range []uint32{1, vdiAbsent, vdiZero, 0} {
		le.PutUint32(b[0x190+4*i:], e)
	}
	for i := 0x200; i < len(b); i++ {
		b[i] = byte((i-0x200)/4096 + 1)
	}
	return b
}

func FuzzQCOW2(f *testing.F) {
	f.Add(smallQCOW2())
	ones := smallQCOW2() // an entry of which every bit is set
	binary.BigEndian.PutUint64(ones[1024:], 1<<64-1)
	f.Add(ones)
	f.Fuzz(func(t *testing.T, raw []byte) { readAnything(t, raw, "qcow2") })
}

func FuzzVDI(f *testing.F) {
	f.Add(smallVDI())
	f.Fuzz(func(t *testing.T, raw []byte) { readAnything(t, raw, "vdi") })
}

// readAnything reads here and there of what may be a disk: an error or data, and in
// either case soon.
func readAnything(t *testing.T, raw []byte, format string) {
	l, err := Open(bytes.NewReader(raw), int64(len(raw)), format)
	if err != nil {
		return
	}
	d, err := Compose([]Layer{l}, []int{1}, 0)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	p := make([]byte, 3000)
	for range 20 {
		if d.Size() <= 0 {
			return
		}
		off := random.Int64N(d.Size())
		if _, n, err := d.Source(off, 1<<20); err == nil && n <= 0 {
			t.Fatalf("%d bytes at %d", n, off)
		}
		if n, err := d.ReadAt(p, off); err == nil && n != len(p) {
			t.Fatalf("%d of %d bytes without an error", n, len(p))
		}
	}
}

func TestDifferencingVDI(t *testing.T) {
	top, err := Open(bytes.NewReader(smallVDI()), int64(len(smallVDI())), "vdi")
	if err != nil {
		t.Fatal(err)
	}
	below := bytes.Repeat([]byte{9}, 2*4096+100) // shorter than the disk
	base, err := Open(bytes.NewReader(below), int64(len(below)), "raw")
	if err != nil {
		t.Fatal(err)
	}
	d, err := Compose([]Layer{top, base}, []int{1, 2}, 5*4096)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 5*4096)
	if n, err := d.ReadAt(p, 0); n != len(p) {
		t.Fatal(n, err)
	}
	for i, want := range []byte{2, 9, 0, 1, 0} {
		if !bytes.Equal(p[i*4096:(i+1)*4096], bytes.Repeat([]byte{want}, 4096)) {
			t.Errorf("block %d begins with %d, want %d", i, p[i*4096], want)
		}
	}
	for off, want := range map[int64]int{0: 1, 4096: 2, 2 * 4096: 0, 4 * 4096: 0} {
		if s, n, err := d.Source(off, 1<<20); err != nil || s.Layer != want || n != 4096 {
			t.Errorf("at %d: layer %d for %d bytes, %v", off, s.Layer, n, err)
		}
	}
}

// What a lower layer lacks is zeros, also where one below that has something.
func TestShortLayer(t *testing.T) {
	short, err := Open(bytes.NewReader(smallQCOW2()), int64(len(smallQCOW2())), "qcow2")
	if err != nil {
		t.Fatal(err)
	}
	base := raw{bytes.NewReader(bytes.Repeat([]byte{7}, 1<<20)), 1 << 20}
	d, err := Compose([]Layer{short, base}, []int{1, 2}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 1)
	for off, want := range map[int64]byte{0: 0x5a, 600: 0, 1100: 7, 64 * 512: 0} {
		if _, err := d.ReadAt(p, off); err != nil || p[0] != want {
			t.Errorf("at %d: %#x, %v; want %#x", off, p[0], err, want)
		}
	}
}
