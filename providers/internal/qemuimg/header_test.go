package qemuimg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// qcow2 is the header of a 1 MiB disk, changed by edit.
func qcow2(edit func(b []byte)) []byte {
	const cluster = 1 << 16
	b := make([]byte, 2*cluster)
	be := binary.BigEndian
	copy(b, "QFI\xfb")
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], 16)
	be.PutUint64(b[24:], 1<<20)
	be.PutUint32(b[100:], 104)
	if edit != nil {
		edit(b)
	}
	return b
}

func backing(name string) func([]byte) {
	return func(b []byte) {
		binary.BigEndian.PutUint64(b[8:], 1024)
		binary.BigEndian.PutUint32(b[16:], uint32(len(name)))
		copy(b[1024:], name)
	}
}

func put32(at int, v uint32) func([]byte) {
	return func(b []byte) { binary.BigEndian.PutUint32(b[at:], v) }
}

func put64(at int, v uint64) func([]byte) {
	return func(b []byte) { binary.BigEndian.PutUint64(b[at:], v) }
}

// vmdk is a sparse extent with a descriptor.
func vmdk(capacity uint64, descriptor string) []byte {
	b := make([]byte, 8192)
	copy(b, "KDMV")
	le := binary.LittleEndian
	le.PutUint64(b[12:], capacity)
	le.PutUint64(b[28:], 1)
	le.PutUint64(b[36:], 4)
	copy(b[512:], descriptor)
	return b
}

const plainVMDK = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\nRW 2048 SPARSE \"disk.vmdk\"\n"

func at(offset int, s string, size int) []byte {
	b := make([]byte, size)
	copy(b[offset:], s)
	return b
}

func vdi(kind uint32) []byte {
	b := at(0x40, "\x7f\x10\xda\xbe", 1024)
	binary.LittleEndian.PutUint32(b[0x4c:], kind)
	return b
}

func vhd(kind uint32) []byte {
	b := at(1024, "conectix", 1536)
	binary.BigEndian.PutUint32(b[1024+60:], kind)
	return b
}

var mbr = at(510, "\x55\xaa", 4096)

var headers = map[string]struct {
	file []byte
	want v1.DiskFormat // asked for
	is   v1.DiskFormat
	err  error
}{
	"qcow2":                       {qcow2(nil), "", v1.DiskFormatQCOW2, nil},
	"qcow2, as stated":            {qcow2(nil), v1.DiskFormatQCOW2, v1.DiskFormatQCOW2, nil},
	"qcow2 of version 2":          {qcow2(put32(4, 2)), "", v1.DiskFormatQCOW2, nil},
	"qcow2 stated to be raw":      {qcow2(nil), v1.DiskFormatRaw, "", ErrFormat},
	"qcow2 of version 9":          {qcow2(put32(4, 9)), "", "", ErrFormat},
	"qcow (1)":                    {qcow2(put32(4, 1)), "", "", ErrFormat},
	"qcow2 cut off":               {qcow2(nil)[:60], "", "", ErrFormat},
	"qcow2 v3 cut off":            {qcow2(nil)[:90], "", "", ErrFormat},
	"qcow2 with backing":          {qcow2(backing("/etc/shadow")), "", "", ErrRefersToOthers},
	"qcow2 with json backing":     {qcow2(backing(`json:{"file":{}}`)), "", "", ErrRefersToOthers},
	"qcow2 with nameless backing": {qcow2(put64(8, 1024)), "", "", ErrRefersToOthers},
	"qcow2 with far backing":      {qcow2(func(b []byte) { put64(8, 1<<40)(b); put32(16, 5)(b) }), "", "", ErrFormat},
	"qcow2 with long backing":     {qcow2(func(b []byte) { put64(8, 1024)(b); put32(16, 1<<30)(b) }), "", "", ErrFormat},
	"qcow2 with data file":        {qcow2(put64(72, 1<<2)), "", "", ErrRefersToOthers},
	"qcow2 with a data file's name": {qcow2(func(b []byte) {
		put32(104, 0x44415441)(b)
		put32(108, 4)(b)
	}), "", "", ErrRefersToOthers},
	"qcow2 with an endless extension":     {qcow2(func(b []byte) { put32(104, 1)(b); put32(108, 0xffffffff)(b) }), "", "", ErrFormat},
	"qcow2, extended L2":                  {qcow2(put64(72, 1<<4)), "", v1.DiskFormatQCOW2, nil},
	"qcow2, corrupt":                      {qcow2(put64(72, 1<<1)), "", "", ErrFormat},
	"qcow2, unknown feature":              {qcow2(put64(72, 1<<40)), "", "", ErrFormat},
	"qcow2, encrypted":                    {qcow2(put32(32, 1)), "", "", ErrFormat},
	"qcow2, absurd clusters":              {qcow2(put32(20, 63)), "", "", ErrFormat},
	"qcow2, absurd header":                {qcow2(put32(100, 1<<31)), "", "", ErrFormat},
	"raw with a boot record":              {mbr, "", v1.DiskFormatRaw, nil},
	"raw, as stated":                      {make([]byte, 1000), v1.DiskFormatRaw, v1.DiskFormatRaw, nil},
	"anything":                            {[]byte(strings.Repeat("text ", 1000)), "", "", ErrFormat},
	"empty":                               {nil, v1.DiskFormatRaw, "", ErrFormat},
	"raw stated to be qcow2":              {mbr, v1.DiskFormatQCOW2, "", ErrFormat},
	"vmdk":                                {vmdk(2048, plainVMDK), "", v1.DiskFormatVMDK, nil},
	"vmdk, descriptor only":               {vmdk(0, plainVMDK), "", "", ErrRefersToOthers},
	"vmdk with a parent":                  {vmdk(2048, strings.Replace(plainVMDK, "ffffffff", "87654321", 1)), "", "", ErrRefersToOthers},
	"vmdk with a parent's name":           {vmdk(2048, plainVMDK+"parentFileNameHint=\"/etc/shadow\"\n"), "", "", ErrRefersToOthers},
	"vmdk with a parent's name elsewhere": {vmdk(2048, plainVMDK+"x parentFileNameHint=\"/etc/shadow\"\n"), "", "", ErrRefersToOthers},
	"vmdk with a parent behind its end":   {vmdk(2048, plainVMDK+strings.Repeat("#\n", 1024)+"parentFileNameHint=\"/etc/shadow\"\n"), "", "", ErrRefersToOthers},
	"vmdk of extents":                     {vmdk(2048, plainVMDK+"RW 1 FLAT \"/etc/shadow\" 0\n"), "", "", ErrRefersToOthers},
	"vmdk of another type":                {vmdk(2048, strings.Replace(plainVMDK, "monolithicSparse", "monolithicFlat", 1)), "", "", ErrRefersToOthers},
	"vmdk descriptor file":                {[]byte(plainVMDK), "", "", ErrRefersToOthers},
	"vmdk with a far descriptor":          {func() []byte { b := vmdk(1, ""); put := binary.LittleEndian; put.PutUint64(b[36:], 1<<50); return b }(), "", "", ErrFormat},
	"vdi":                                 {vdi(1), "", v1.DiskFormatVDI, nil},
	"vdi, differencing":                   {vdi(4), "", "", ErrRefersToOthers},
	"vdi, unknown":                        {vdi(77), "", "", ErrFormat},
	"vhd":                                 {vhd(2), "", v1.DiskFormatVHD, nil},
	"vhd, differencing":                   {vhd(4), "", "", ErrRefersToOthers},
	"vhdx":                                {at(0, "vhdxfile", 4096), "", v1.DiskFormatVHDX, nil},
	"luks":                                {at(0, "LUKS\xba\xbe", 4096), "", "", ErrFormat},
	"luks stated to be raw":               {at(0, "LUKS\xba\xbe", 4096), v1.DiskFormatRaw, "", ErrFormat},
	"qed":                                 {at(0, "QED\x00", 4096), v1.DiskFormatRaw, "", ErrFormat},
	"dmg":                                 {at(4096-512, "koly", 4096), "", "", ErrFormat},
}

func TestInspect(t *testing.T) {
	for name, tc := range headers {
		h, err := Inspect(bytes.NewReader(tc.file), int64(len(tc.file)), tc.want)
		if !errors.Is(err, tc.err) || (err == nil && h.Format != tc.is) {
			t.Errorf("%s: %+v, %v; want %q, %v", name, h, err, tc.is, tc.err)
		}
	}
}

func TestReadOverlay(t *testing.T) {
	h, err := ReadOverlay(bytes.NewReader(qcow2(backing("/data/base.qcow2"))))
	if err != nil || h.Backing != "/data/base.qcow2" || h.VirtualSize != 1<<20 {
		t.Errorf("%+v, %v", h, err)
	}
}

// FuzzInspect: whatever the file, the answer comes without a panic, and no
// qcow2 that passes has a backing file by the reading of its plain fields.
func FuzzInspect(f *testing.F) {
	for _, tc := range headers {
		f.Add(tc.file[:min(len(tc.file), 2048)])
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		for _, want := range []v1.DiskFormat{"", v1.DiskFormatQCOW2, v1.DiskFormatRaw, v1.DiskFormatVMDK} {
			h, err := Inspect(bytes.NewReader(file), int64(len(file)), want)
			if err != nil {
				continue
			}
			if want != "" && h.Format != want {
				t.Fatalf("asked for %s, got %s", want, h.Format)
			}
			if h.Format == v1.DiskFormatQCOW2 && binary.BigEndian.Uint64(file[8:]) != 0 {
				t.Fatal("a qcow2 with a backing file passes")
			}
		}
	})
}
