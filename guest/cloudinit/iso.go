package cloudinit

import (
	"bytes"
	"encoding/binary"
	"io"
	"maps"
	"slices"
	"unicode/utf16"
)

// The image is an ISO 9660 volume with Joliet names (ECMA-119 and Microsoft's
// Joliet specification): one directory, once under short names that the
// standard allows, once under the real ones. Both point at the same data.
//
//	sector 16     primary volume descriptor
//	       17     supplementary volume descriptor (Joliet)
//	       18     end of the descriptors
//	       19-22  path tables: little and big endian, primary and Joliet
//	       23     directory, primary
//	       24     directory, Joliet
//	       25...  the files, in order
const (
	sector        = 2048
	pathTables    = 19
	rootPrimary   = 23
	rootJoliet    = 24
	firstFile     = 25
	pathTableSize = 10  // one entry: the root
	minSectors    = 150 // programs that look for a label read as far as any file system may keep its own
)

// epoch stands for every time in the image, so that equal input gives equal
// bytes: 2020-01-01 00:00:00 UTC.
var epoch = [7]byte{120, 1, 1, 0, 0, 0, 0}

const epochText = "2020010100000000\x00"

// file is a file of the root directory.
type file struct {
	name string
	data []byte
}

// writeISO writes an image. The files must be few enough for their records to
// fit in one sector, which those of a seed are.
func writeISO(w io.Writer, label string, files []file) error {
	at := uint32(firstFile)
	primary := selfRecords(rootPrimary)
	joliet := selfRecords(rootJoliet)
	var content bytes.Buffer
	for _, f := range files {
		primary = append(primary, record([]byte(shortName(f.name)), at, uint32(len(f.data)), 0)...)
		joliet = append(joliet, record(ucs2(f.name), at, uint32(len(f.data)), 0)...)
		content.Write(f.data)
		content.Write(make([]byte, padding(len(f.data))))
		at += uint32((len(f.data) + sector - 1) / sector)
	}

	if at < minSectors {
		content.Write(make([]byte, (minSectors-at)*sector))
		at = minSectors
	}

	var image bytes.Buffer
	image.Write(make([]byte, 16*sector))
	image.Write(descriptor(1, []byte(label), at, pathTables, rootPrimary))
	image.Write(descriptor(2, ucs2(label), at, pathTables+2, rootJoliet))
	image.Write(padded([]byte("\xffCD001\x01")))
	for _, root := range []uint32{rootPrimary, rootJoliet} {
		image.Write(pathTable(binary.LittleEndian, root))
		image.Write(pathTable(binary.BigEndian, root))
	}
	image.Write(padded(primary))
	image.Write(padded(joliet))
	image.Write(content.Bytes())
	_, err := w.Write(image.Bytes())
	return err
}

// descriptor is a volume descriptor: kind 1 is the primary one, kind 2 Joliet's.
func descriptor(kind byte, label []byte, sectors, tables, root uint32) []byte {
	b := make([]byte, sector)
	b[0] = kind
	copy(b[1:], "CD001\x01")
	blank := []byte(" ")
	if kind == 2 {
		blank = []byte("\x00 ")
		copy(b[88:], "%/E") // the escape sequence for UCS-2 level 3
	}
	fill := func(from, to int) { copy(b[from:to], bytes.Repeat(blank, (to-from+1)/len(blank))) }
	fill(8, 40)
	if kind == 1 {
		fill(40, 72) // Joliet's label ends with zeros instead, as small guests' readers do not trim it
	}
	copy(b[40:72], label)
	both32(b[80:], sectors)
	both16(b[120:], 1)
	both16(b[124:], 1)
	both16(b[128:], sector)
	both32(b[132:], pathTableSize)
	binary.LittleEndian.PutUint32(b[140:], tables)
	binary.BigEndian.PutUint32(b[148:], tables+1)
	copy(b[156:], record([]byte{0}, root, sector, 2))
	fill(190, 813)
	for at := 813; at < 881; at += 17 {
		copy(b[at:], epochText)
	}
	b[881] = 1
	return b
}

// selfRecords are the first two records of the root directory: itself, twice.
func selfRecords(root uint32) []byte {
	return append(record([]byte{0}, root, sector, 2), record([]byte{1}, root, sector, 2)...)
}

// record is a directory record; flag 2 marks a directory.
func record(name []byte, at, size uint32, flag byte) []byte {
	n := 33 + len(name)
	n += n % 2
	b := make([]byte, n)
	b[0] = byte(n)
	both32(b[2:], at)
	both32(b[10:], size)
	copy(b[18:], epoch[:])
	b[25] = flag
	both16(b[28:], 1)
	b[32] = byte(len(name))
	copy(b[33:], name)
	return b
}

func pathTable(order binary.ByteOrder, root uint32) []byte {
	b := make([]byte, sector)
	b[0] = 1
	order.PutUint32(b[2:], root)
	order.PutUint16(b[6:], 1)
	return b
}

// shortName is a name of at most eight capital letters, digits and
// underscores, as the standard's first level wants them.
func shortName(name string) string {
	b := bytes.ToUpper([]byte(name))
	for i, c := range b {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			b[i] = '_'
		}
	}
	return string(b[:min(len(b), 8)]) + ".;1"
}

func ucs2(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.BigEndian.AppendUint16(b, u)
	}
	return b
}

func both16(b []byte, v uint16) {
	binary.LittleEndian.PutUint16(b, v)
	binary.BigEndian.PutUint16(b[2:], v)
}

func both32(b []byte, v uint32) {
	binary.LittleEndian.PutUint32(b, v)
	binary.BigEndian.PutUint32(b[4:], v)
}

func padding(n int) int { return (sector - n%sector) % sector }

func padded(b []byte) []byte { return append(b, make([]byte, padding(len(b)))...) }

// WriteFiles writes a CD with a label and a few files in its root directory, of
// short names. They are in the order of their names.
func WriteFiles(w io.Writer, label string, content map[string][]byte) error {
	var list []file
	for _, name := range slices.Sorted(maps.Keys(content)) {
		list = append(list, file{name, content[name]})
	}
	return writeISO(w, label, list)
}
