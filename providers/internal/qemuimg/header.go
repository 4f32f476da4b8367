// Package qemuimg knows disk image files: it reads their headers itself, and
// drives qemu-img for the rest.
//
//	file ──Inspect──▶ format, size; refuses what refers to other files
//	     ──Info─────▶ the same by qemu-img, on the format found before
//	     ──Convert──▶ a qcow2 of our own making
//
// An image file comes from anywhere. Its header may name any file of the host
// as a lower layer, which QEMU would then read and show to the guest. So the
// header is read here first, strictly and with bounds, before qemu-img sees the
// file; qemu-img is never left to guess a format, and runs with limits on
// memory, time and the files it may open.
package qemuimg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// Errors of Inspect.
var (
	// ErrFormat: not of the stated or of any known format, or damaged.
	ErrFormat = errors.New("unknown or damaged format")
	// ErrRefersToOthers: the image needs another file.
	ErrRefersToOthers = errors.New("refers to another file")
)

// Header is what an image's header says.
type Header struct {
	Format v1.DiskFormat
	// VirtualSize in bytes; 0 where only qemu-img can tell.
	VirtualSize int64
	// Backing file's name; only ReadOverlay returns one.
	Backing string
	// Snapshots that a qcow2 file holds within itself.
	Snapshots int
}

// Bounds of what is read of a header, in bytes.
const (
	maxDescriptor  = 1 << 20  // VMDK descriptor; real ones have some hundred bytes
	qemuDescriptor = 20 * 512 // what QEMU reads of one inside an extent
	maxBackingLen  = 1023     // qcow2 specification
)

// Inspect finds a file's format, or checks that it is the wanted one, and
// refuses images that refer to other files.
func Inspect(r io.ReaderAt, size int64, want v1.DiskFormat) (Header, error) {
	found, err := detect(r, size)
	if err != nil {
		return Header{}, err
	}
	switch {
	case want != "" && found == "" && want == v1.DiskFormatRaw:
		found = v1.DiskFormatRaw
	case want != "" && found == "":
		return Header{}, fmt.Errorf("%w: it is not a %s image", ErrFormat, want)
	case want != "" && found != want:
		return Header{}, fmt.Errorf("%w: it is a %s image, not %s", ErrFormat, found, want)
	case found == "":
		if !hasBootRecord(r) {
			return Header{}, fmt.Errorf("%w: it has no signature of any known disk format; if it really is a raw disk, say format: raw", ErrFormat)
		}
		found = v1.DiskFormatRaw
	}
	h := Header{Format: found}
	switch found {
	case v1.DiskFormatQCOW2:
		if h, err = readQCOW2(r); err == nil && h.Backing != "" {
			err = fmt.Errorf("%w: its header names the backing file %q", ErrRefersToOthers, h.Backing)
		}
	case v1.DiskFormatRaw:
		h.VirtualSize = (size + 511) &^ 511
	case v1.DiskFormatVMDK:
		h.VirtualSize, err = checkVMDK(r)
	case v1.DiskFormatVDI:
		err = checkVDI(r)
	case v1.DiskFormatVHD:
		err = checkVHD(r, size)
	case v1.DiskFormatVHDX: // qemu-img refuses VHDX files that have a parent
	}
	return h, err
}

// foreign are signatures of formats that QEMU would recognize and that are not
// taken.
var foreign = []struct{ name, magic string }{
	{"QED", "QED\x00"},
	{"Parallels", "WithoutFreeSpace"},
	{"Parallels", "WithouFreSpacExt"},
	{"Bochs", "Bochs Virtual HD Image"},
	{"LUKS", "LUKS\xba\xbe"},
	{"VMware 3", "COWD"},
	{"cloop", "#!/bin/sh\n#V2.0 Format\n"},
}

// detect returns the format by signature; empty when nothing matches.
func detect(r io.ReaderAt, size int64) (v1.DiskFormat, error) {
	if size == 0 {
		return "", fmt.Errorf("%w: the file is empty", ErrFormat)
	}
	head := make([]byte, 512)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	head = head[:n]
	for _, f := range foreign {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return "", fmt.Errorf("%w: %s images are not supported; convert it to qcow2 first", ErrFormat, f.name)
		}
	}
	switch {
	case bytes.HasPrefix(head, []byte("QFI\xfb")):
		return v1.DiskFormatQCOW2, nil
	case bytes.HasPrefix(head, []byte("KDMV")):
		return v1.DiskFormatVMDK, nil
	case isVMDKDescriptor(head):
		return "", fmt.Errorf("%w: it is a VMDK descriptor, whose data is in other files; convert it to a single file first", ErrRefersToOthers)
	case bytes.HasPrefix(head, []byte("vhdxfile")):
		return v1.DiskFormatVHDX, nil
	case bytes.HasPrefix(head, []byte("conectix")):
		return v1.DiskFormatVHD, nil
	case len(head) >= 0x44 && binary.LittleEndian.Uint32(head[0x40:]) == 0xbeda107f:
		return v1.DiskFormatVDI, nil
	}
	if size >= 512 {
		foot := make([]byte, 8)
		if _, err := r.ReadAt(foot, size-512); err == nil {
			switch {
			case string(foot) == "conectix": // a fixed VHD has a footer only
				return v1.DiskFormatVHD, nil
			case string(foot[:4]) == "koly":
				return "", fmt.Errorf("%w: DMG images are not supported; convert it to qcow2 first", ErrFormat)
			}
		}
	}
	return "", nil
}

func hasBootRecord(r io.ReaderAt) bool {
	sig := make([]byte, 2)
	_, err := r.ReadAt(sig, 510)
	return err == nil && sig[0] == 0x55 && sig[1] == 0xaa
}

// readQCOW2 reads a qcow2 header as the specification (docs/interop/qcow2.txt
// of QEMU) lays it out. Backing is filled in, not refused.
func readQCOW2(r io.ReaderAt) (Header, error) {
	b := make([]byte, 112)
	n, err := r.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Header{}, err
	}
	b = b[:n]
	if len(b) < 72 || string(b[:4]) != "QFI\xfb" {
		return Header{}, fmt.Errorf("%w: the qcow2 header is cut off", ErrFormat)
	}
	be := binary.BigEndian
	version, length := be.Uint32(b[4:]), uint32(72)
	clusterBits, virtual := be.Uint32(b[20:]), be.Uint64(b[24:])
	if clusterBits < 9 || clusterBits > 21 || virtual > 1<<62 {
		return Header{}, fmt.Errorf("%w: the qcow2 header is damaged", ErrFormat)
	}
	if be.Uint32(b[32:]) != 0 {
		return Header{}, fmt.Errorf("%w: encrypted qcow2 images are not supported", ErrFormat)
	}
	switch version {
	case 2:
	case 3:
		if len(b) < 104 {
			return Header{}, fmt.Errorf("%w: the qcow2 header is cut off", ErrFormat)
		}
		length = be.Uint32(b[100:])
		if err := checkFeatures(be.Uint64(b[72:])); err != nil {
			return Header{}, err
		}
	default:
		return Header{}, fmt.Errorf("%w: qcow2 version %d is not known", ErrFormat, version)
	}
	if length < 72 || length > 1<<clusterBits {
		return Header{}, fmt.Errorf("%w: the qcow2 header is damaged", ErrFormat)
	}
	h := Header{Format: v1.DiskFormatQCOW2, VirtualSize: int64(virtual), Snapshots: int(be.Uint32(b[60:]))}
	if err := checkExtensions(r, int64(length), 1<<clusterBits); err != nil {
		return Header{}, err
	}
	h.Backing, err = backingName(r, be.Uint64(b[8:]), be.Uint32(b[16:]), 1<<clusterBits)
	return h, err
}

// checkFeatures looks at a qcow2 file's incompatible features.
func checkFeatures(bits uint64) error {
	const (
		corrupt  = 1 << 1
		dataFile = 1 << 2
		known    = 1<<0 | corrupt | dataFile | 1<<3 | 1<<4 // dirty, compression type, extended L2 entries
	)
	switch {
	case bits&dataFile != 0:
		return fmt.Errorf("%w: its data is in an external file", ErrRefersToOthers)
	case bits&corrupt != 0:
		return fmt.Errorf("%w: the qcow2 image is marked corrupt; repair it with qemu-img check -r all", ErrFormat)
	case bits&^uint64(known) != 0:
		return fmt.Errorf("%w: the qcow2 image has features that are not known (%#x)", ErrFormat, bits&^uint64(known))
	}
	return nil
}

// checkExtensions walks the header extensions, which end with the first cluster.
func checkExtensions(r io.ReaderAt, at, end int64) error {
	const (
		endOfList    = 0
		dataFileName = 0x44415441
	)
	head := make([]byte, 8)
	for at+8 <= end {
		if _, err := r.ReadAt(head, at); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		kind, length := binary.BigEndian.Uint32(head), int64(binary.BigEndian.Uint32(head[4:]))
		switch {
		case kind == endOfList:
			return nil
		case kind == dataFileName:
			return fmt.Errorf("%w: its data is in an external file", ErrRefersToOthers)
		case length > end-at-8:
			return fmt.Errorf("%w: a qcow2 header extension is too long", ErrFormat)
		}
		at += 8 + (length+7)&^7
	}
	return nil
}

func backingName(r io.ReaderAt, offset uint64, length uint32, cluster uint64) (string, error) {
	if offset == 0 {
		return "", nil
	}
	if length > maxBackingLen || offset > cluster || uint64(length) > cluster-offset {
		return "", fmt.Errorf("%w: the name of its backing file is out of bounds", ErrFormat)
	}
	name := make([]byte, length)
	if _, err := r.ReadAt(name, int64(offset)); err != nil {
		return "", fmt.Errorf("%w: the name of its backing file is cut off", ErrFormat)
	}
	if length == 0 {
		return "(no name)", nil
	}
	return string(name), nil
}

// ReadOverlay reads the header of a qcow2 file that may have a backing file.
func ReadOverlay(r io.ReaderAt) (Header, error) { return readQCOW2(r) }

func isVMDKDescriptor(head []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(head, " \t\r\n"), []byte("# Disk DescriptorFile"))
}

// checkVMDK refuses a VMDK whose embedded descriptor names a parent or more
// than its own extent, and one that QEMU would read as a descriptor file
// because it says its capacity is 0.
func checkVMDK(r io.ReaderAt) (virtual int64, err error) {
	const sector, most = 512, 1 << 50 // in sectors
	b := make([]byte, 44)
	if _, err := r.ReadAt(b, 0); err != nil {
		return 0, fmt.Errorf("%w: the VMDK header is cut off", ErrFormat)
	}
	le := binary.LittleEndian
	capacity, offset, length := le.Uint64(b[12:]), le.Uint64(b[28:]), le.Uint64(b[36:])
	virtual = int64(min(capacity, most)) * sector
	if capacity == 0 {
		return 0, fmt.Errorf("%w: the VMDK holds a descriptor only", ErrRefersToOthers)
	}
	if offset == 0 {
		return virtual, nil // no descriptor: the file is all there is
	}
	if length == 0 || length > maxDescriptor/sector || offset > 1<<40 {
		return 0, fmt.Errorf("%w: the VMDK descriptor is out of bounds", ErrFormat)
	}
	// QEMU reads as much as descriptors usually have, whatever the header says.
	text := make([]byte, max(length*sector, qemuDescriptor))
	n, err := r.ReadAt(text, int64(offset)*sector)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return virtual, checkVMDKDescriptor(string(bytes.TrimRight(text[:n], "\x00")))
}

func checkVMDKDescriptor(text string) error {
	// QEMU looks for this word anywhere, and not just at the beginning of a line.
	if strings.Contains(strings.ToLower(text), "parentfilenamehint") {
		return fmt.Errorf("%w: its descriptor names a parent", ErrRefersToOthers)
	}
	extents := 0
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		key, value, _ := strings.Cut(line, "=")
		key, value = strings.ToLower(strings.TrimSpace(key)), strings.Trim(strings.TrimSpace(value), `"`)
		switch {
		case key == "parentcid" && !strings.EqualFold(value, "ffffffff"):
			return fmt.Errorf("%w: its descriptor names a parent", ErrRefersToOthers)
		case key == "createtype" && value != "monolithicSparse" && value != "streamOptimized":
			return fmt.Errorf("%w: VMDK type %q keeps its data in other files", ErrRefersToOthers, value)
		case strings.HasPrefix(line, "RW "), strings.HasPrefix(line, "RDONLY "), strings.HasPrefix(line, "NOACCESS "):
			extents++
		}
	}
	if extents > 1 {
		return fmt.Errorf("%w: its descriptor names %d extents", ErrRefersToOthers, extents)
	}
	return nil
}

func checkVDI(r io.ReaderAt) error {
	b := make([]byte, 4)
	if _, err := r.ReadAt(b, 0x4c); err != nil {
		return fmt.Errorf("%w: the VDI header is cut off", ErrFormat)
	}
	switch kind := binary.LittleEndian.Uint32(b); kind {
	case 1, 2: // dynamic, fixed
		return nil
	case 3, 4: // undo, differencing
		return fmt.Errorf("%w: it is a differencing VDI", ErrRefersToOthers)
	default:
		return fmt.Errorf("%w: VDI type %d is not known", ErrFormat, kind)
	}
}

func checkVHD(r io.ReaderAt, size int64) error {
	b := make([]byte, 64)
	if _, err := r.ReadAt(b, max(0, size-512)); err != nil || string(b[:8]) != "conectix" {
		if _, err := r.ReadAt(b, 0); err != nil || string(b[:8]) != "conectix" {
			return fmt.Errorf("%w: the VHD footer is cut off", ErrFormat)
		}
	}
	switch kind := binary.BigEndian.Uint32(b[60:]); kind {
	case 2, 3: // fixed, dynamic
		return nil
	case 4:
		return fmt.Errorf("%w: it is a differencing VHD", ErrRefersToOthers)
	default:
		return fmt.Errorf("%w: VHD type %d is not known", ErrFormat, kind)
	}
}
