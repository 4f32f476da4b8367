package ova

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

const (
	head = `<?xml version="1.0" encoding="UTF-8"?><Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">`
	tail = `</Envelope>`
)

func ovf(references, disks string) string {
	return head + "<References>" + references + "</References><DiskSection><Info>x</Info>" + disks + "</DiskSection>" + tail
}

const (
	oneFile = `<File ovf:id="f" ovf:href="disk.vmdk" ovf:size="4"/>`
	oneDisk = `<Disk ovf:diskId="d" ovf:fileRef="f" ovf:capacity="1"/>`
)

var plainOVF = ovf(oneFile, oneDisk)

type entry struct {
	name, content string
	kind          byte
	pax           map[string]string
}

func pack(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Size: int64(len(e.content)), Mode: 0o644, PAXRecords: e.pax}
		switch e.kind {
		case 0:
			h.Typeflag = tar.TypeReg
		case tar.TypeSymlink, tar.TypeLink:
			h.Linkname = "/etc/passwd"
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestFind(t *testing.T) {
	description, disk := entry{name: "a.ovf", content: plainOVF}, entry{name: "disk.vmdk", content: "disk"}
	many := []entry{description, disk}
	for i := range maxMembers {
		many = append(many, entry{name: fmt.Sprint(i)})
	}
	for name, tc := range map[string]struct {
		file []byte
		ok   bool
	}{
		"plain":                     {pack(t, description, disk), true},
		"with others beside it":     {pack(t, entry{name: "a.mf"}, description, disk, entry{name: "b.nvram", content: "x"}), true},
		"with the name of a folder": {pack(t, entry{name: "./a.ovf", content: plainOVF}, entry{name: "./disk.vmdk", content: "disk"}), true},
		"a description last":        {pack(t, disk, description), true},
		"capitals":                  {pack(t, entry{name: "A.OVF", content: plainOVF}, disk), true},
		"no description":            {pack(t, disk), false},
		"two descriptions":          {pack(t, description, entry{name: "b.ovf", content: plainOVF}, disk), false},
		"no disk":                   {pack(t, description), false},
		"an empty disk":             {pack(t, description, entry{name: "disk.vmdk"}), false},
		"an empty description":      {pack(t, entry{name: "a.ovf"}, disk), false},
		"a large description":       {pack(t, entry{name: "a.ovf", content: plainOVF + strings.Repeat(" ", maxDescription)}, disk), false},
		"a way out":                 {pack(t, description, disk, entry{name: "../x", content: "x"}), false},
		"a longer way out":          {pack(t, description, disk, entry{name: "a/../../x", content: "x"}), false},
		"an absolute name":          {pack(t, description, disk, entry{name: "/etc/passwd", content: "x"}), false},
		"a name in a folder":        {pack(t, description, disk, entry{name: "a/b", content: "x"}), false},
		"a name of Windows":         {pack(t, description, disk, entry{name: `..\b`, content: "x"}), false},
		"a folder":                  {pack(t, description, disk, entry{name: "a/", kind: tar.TypeDir}), false},
		"a symbolic link":           {pack(t, description, entry{name: "disk.vmdk", kind: tar.TypeSymlink}), false},
		"a hard link":               {pack(t, description, disk, entry{name: "x", kind: tar.TypeLink}), false},
		"a device":                  {pack(t, description, disk, entry{name: "x", kind: tar.TypeBlock}), false},
		"a pipe":                    {pack(t, description, disk, entry{name: "x", kind: tar.TypeFifo}), false},
		"twice the disk":            {pack(t, description, disk, disk), false},
		"twice in disguise":         {pack(t, description, disk, entry{name: "./disk.vmdk", content: "x"}), false},
		"too many":                  {pack(t, many...), false},
		"larger than it may be":     {pack(t, description, entry{name: "disk.vmdk", content: strings.Repeat("x", 100_001)}), false},
		"cut off":                   {pack(t, description, entry{name: "disk.vmdk", content: strings.Repeat("x", 9000)})[:4000], false},
		"no archive":                {[]byte(strings.Repeat("x", 5000)), false},
		"nothing":                   {nil, false},
	} {
		d, err := Find(bytes.NewReader(tc.file), int64(len(tc.file)), 100_000)
		if (err == nil) != tc.ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
		if err == nil && string(tc.file[d.Offset:d.Offset+d.Size]) != "disk" {
			t.Errorf("%s: the disk is not at %+v", name, d)
		}
	}
}

func TestDescription(t *testing.T) {
	file := func(attributes string) string { return `<File ovf:id="f" ` + attributes + `/>` }
	for name, tc := range map[string]struct {
		ovf  string
		want string
	}{
		"plain":                       {plainOVF, "disk.vmdk"},
		"without prefixes":            {`<Envelope><References><File id="f" href="disk.vmdk"/></References><DiskSection><Disk fileRef="f"/></DiskSection></Envelope>`, "disk.vmdk"},
		"an empty disk besides":       {ovf(oneFile, oneDisk+`<Disk ovf:diskId="e" ovf:capacity="1"/>`), "disk.vmdk"},
		"another file besides":        {ovf(oneFile+`<File ovf:id="g" ovf:href="x.nvram"/>`, oneDisk), "disk.vmdk"},
		"two disks":                   {ovf(oneFile+`<File ovf:id="g" ovf:href="b.vmdk"/>`, oneDisk+`<Disk ovf:fileRef="g"/>`), ""},
		"two disks of one file":       {ovf(oneFile, oneDisk+oneDisk), ""},
		"no disk":                     {ovf(oneFile, ""), ""},
		"a disk of no file":           {ovf("", oneDisk), ""},
		"a file twice":                {ovf(oneFile+oneFile, oneDisk), ""},
		"a differencing disk":         {ovf(oneFile, `<Disk ovf:fileRef="f" ovf:parentRef="p"/>`), ""},
		"packed":                      {ovf(file(`ovf:href="disk.vmdk.gz" ovf:compression="gzip"`), oneDisk), ""},
		"not packed, in words":        {ovf(file(`ovf:href="disk.vmdk" ovf:compression="identity"`), oneDisk), "disk.vmdk"},
		"in chunks":                   {ovf(file(`ovf:href="disk.vmdk" ovf:chunkSize="5"`), oneDisk), ""},
		"elsewhere":                   {ovf(file(`ovf:href="http://example.com/disk.vmdk"`), oneDisk), ""},
		"above":                       {ovf(file(`ovf:href="../disk.vmdk"`), oneDisk), ""},
		"absolute":                    {ovf(file(`ovf:href="/etc/shadow"`), oneDisk), ""},
		"a document type":             {`<!DOCTYPE x [<!ENTITY a "b">]>` + plainOVF, ""},
		"an entity":                   {ovf(file(`ovf:href="&a;"`), oneDisk), ""},
		"another encoding":            {strings.Replace(plainOVF, "UTF-8", "UTF-16", 1), ""},
		"cut off":                     {plainOVF[:len(plainOVF)-5], ""},
		"crossed elements":            {head + "<References></DiskSection>" + tail, ""},
		"too deep":                    {head + strings.Repeat("<a>", maxDepth) + strings.Repeat("</a>", maxDepth) + tail, ""},
		"too long":                    {head + strings.Repeat("<a/>", maxTokens) + tail, ""},
		"disks outside of their list": {head + "<References>" + oneFile + "</References>" + oneDisk + tail, ""},
		"nothing":                     {"", ""},
	} {
		got, err := diskOf([]byte(tc.ovf))
		if got != tc.want || (err == nil) != (tc.want != "") || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// FuzzDescription: what is found is a plain name that stands in the description.
func FuzzDescription(f *testing.F) {
	f.Add([]byte(plainOVF))
	f.Add([]byte(ovf(oneFile, oneDisk+oneDisk)))
	f.Fuzz(func(t *testing.T, b []byte) {
		name, err := diskOf(b)
		if err == nil && !plain(name) || err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatalf("%q, %v", name, err)
		}
	})
}

// FuzzFind: a disk that is found lies within the archive and the limit.
func FuzzFind(f *testing.F) {
	description, disk := entry{name: "a.ovf", content: plainOVF}, entry{name: "disk.vmdk", content: "disk"}
	f.Add(pack(f, description, disk))
	f.Add(pack(f, description, entry{name: "x", kind: tar.TypeSymlink}))
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 20
		d, err := Find(bytes.NewReader(b), int64(len(b)), limit)
		switch {
		case err != nil && !errors.Is(err, ErrInvalid):
			t.Fatalf("an error of no kind: %v", err)
		case err == nil && (d.Offset <= 0 || d.Size <= 0 || d.Size > limit || d.Offset+d.Size > int64(len(b)) || !plain(d.Name)):
			t.Fatalf("%+v of %d bytes", d, len(b))
		}
	})
}
