package fake

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// The magic numbers at the start of a disk image file, by format. A file with
// none of them is raw.
var magics = []struct {
	format v1.DiskFormat
	offset int
	magic  string
}{
	{v1.DiskFormatQCOW2, 0, "QFI\xfb"},
	{v1.DiskFormatVMDK, 0, "KDMV"},
	{v1.DiskFormatVMDK, 0, "# Disk DescriptorFile"},
	{v1.DiskFormatVHDX, 0, "vhdxfile"},
	{v1.DiskFormatVHD, 0, "conectix"},
	{v1.DiskFormatVDI, 64, "\x7f\x10\xda\xbe"},
}

// headerSize is how much of a file is looked at, in bytes.
const headerSize = 512

// The offsets in a qcow2 header, all numbers big-endian.
const (
	qcow2Version      = 4
	qcow2Backing      = 8
	qcow2Size         = 24
	qcow2Incompatible = 72 // from version 3 on
	qcow2DataFile     = 1 << 2
	qcow2MinHeader    = 72
)

// inspect fills in the format and the virtual size of a file, and refuses one
// that refers to another file.
func inspect(object string, r io.ReaderAt, info *providers.Image) error {
	header := make([]byte, headerSize)
	n, err := r.ReadAt(header, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return providers.Errorf(providers.ErrInvalid, object, "its source cannot be read: %w", err)
	}
	header = header[:n]
	info.Format, info.VirtualSize = v1.DiskFormatRaw, info.ActualSize
	for _, m := range magics {
		if len(header) >= m.offset && bytes.HasPrefix(header[m.offset:], []byte(m.magic)) {
			info.Format = m.format
			break
		}
	}
	switch {
	case n == 0:
		return providers.Errorf(providers.ErrInvalid, object, "its source is empty").
			WithReason(providers.ReasonFormatMismatch)
	case info.Format == v1.DiskFormatQCOW2:
		return inspectQCOW2(object, header, info)
	}
	return nil
}

func inspectQCOW2(object string, header []byte, info *providers.Image) error {
	if len(header) < qcow2MinHeader {
		return providers.Errorf(providers.ErrInvalid, object, "its source is a qcow2 file that was cut off").
			WithReason(providers.ReasonFormatMismatch)
	}
	be := binary.BigEndian
	external := be.Uint32(header[qcow2Version:]) >= 3 && len(header) >= qcow2Incompatible+8 &&
		be.Uint64(header[qcow2Incompatible:])&qcow2DataFile != 0
	if external || be.Uint64(header[qcow2Backing:]) != 0 {
		return providers.Errorf(providers.ErrInvalid, object,
			"its source refers to another file of the host: flatten it with qemu-img convert").
			WithReason(providers.ReasonBackingFile)
	}
	size := be.Uint64(header[qcow2Size:])
	if size == 0 || size > 1<<62 {
		return providers.Errorf(providers.ErrInvalid, object, "its source has an impossible disk size of %d bytes", size).
			WithReason(providers.ReasonFormatMismatch)
	}
	info.VirtualSize = int64(size)
	return nil
}
