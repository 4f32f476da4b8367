package fake

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// qcow2Header is a header that says so much and is otherwise empty.
func qcow2Header(version uint32, backing, size, incompatible uint64) []byte {
	b := make([]byte, 104)
	copy(b, "QFI\xfb")
	binary.BigEndian.PutUint32(b[qcow2Version:], version)
	binary.BigEndian.PutUint64(b[qcow2Backing:], backing)
	binary.BigEndian.PutUint64(b[qcow2Size:], size)
	binary.BigEndian.PutUint64(b[qcow2Incompatible:], incompatible)
	return b
}

func TestInspect(t *testing.T) {
	for name, tc := range map[string]struct {
		content []byte
		format  v1.DiskFormat
		size    int64
		reason  string
	}{
		"raw":                {[]byte("anything"), v1.DiskFormatRaw, 8, ""},
		"qcow2":              {qcow2Header(3, 0, 1<<30, 0), v1.DiskFormatQCOW2, 1 << 30, ""},
		"qcow2, version 2":   {qcow2Header(2, 0, 1<<30, qcow2DataFile), v1.DiskFormatQCOW2, 1 << 30, ""},
		"backing file":       {qcow2Header(2, 104, 1<<30, 0), "", 0, providers.ReasonBackingFile},
		"data file":          {qcow2Header(3, 0, 1<<30, qcow2DataFile), "", 0, providers.ReasonBackingFile},
		"qcow2 without size": {qcow2Header(3, 0, 0, 0), "", 0, providers.ReasonFormatMismatch},
		"qcow2 too large":    {qcow2Header(3, 0, 1<<63, 0), "", 0, providers.ReasonFormatMismatch},
		"qcow2, cut off":     {[]byte("QFI\xfb"), "", 0, providers.ReasonFormatMismatch},
		"empty":              {nil, "", 0, providers.ReasonFormatMismatch},
		"vmdk":               {[]byte("KDMV..."), v1.DiskFormatVMDK, 7, ""},
		"vmdk descriptor":    {[]byte("# Disk DescriptorFile\n"), v1.DiskFormatVMDK, 22, ""},
		"vhd":                {[]byte("conectix"), v1.DiskFormatVHD, 8, ""},
		"vhdx":               {[]byte("vhdxfile"), v1.DiskFormatVHDX, 8, ""},
		"vdi":                {append(make([]byte, 64), 0x7f, 0x10, 0xda, 0xbe), v1.DiskFormatVDI, 68, ""},
	} {
		info := providers.Image{ActualSize: int64(len(tc.content))}
		err := inspect("image", bytes.NewReader(tc.content), &info)
		var e *providers.Error
		if tc.reason != "" {
			if !errors.As(err, &e) || e.Reason != tc.reason || !errors.Is(err, providers.ErrInvalid) {
				t.Errorf("%s: got %v, want reason %s", name, err, tc.reason)
			}
		} else if err != nil || info.Format != tc.format || info.VirtualSize != tc.size {
			t.Errorf("%s: got %+v, %v", name, info, err)
		}
	}
}

// FuzzInspect checks that no file makes a disk of an impossible size.
func FuzzInspect(f *testing.F) {
	f.Add(qcow2Header(3, 0, 1<<30, 0))
	f.Add([]byte("KDMV"))
	f.Fuzz(func(t *testing.T, content []byte) {
		info := providers.Image{ActualSize: int64(len(content))}
		err := inspect("image", bytes.NewReader(content), &info)
		if err == nil && (info.VirtualSize <= 0 || info.Format == "") {
			t.Errorf("accepted as %+v", info)
		}
		if err != nil && providers.KindOf(err) == nil {
			t.Errorf("an error without a kind: %v", err)
		}
	})
}
