package conformance

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"k8s.io/apimachinery/pkg/api/resource"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// diskSize is that of the disks that are imported here, in bytes.
const diskSize = 1 << 20

func (s *suite) testSources(t *testing.T) {
	t.Run("ImportImage reads every kind of source", s.testKindsOfSources)
	t.Run("ImportImage reads every format of disk", s.testFormats)
	t.Run("ImportImage refuses hostile sources with a reason and leaves nothing", s.testHostileSources)
	t.Run("ImportImage holds a source without a digest to its first one", s.testRecordedDigest)
	t.Run("ImportImage goes on with a download that broke off, in another process too", s.testBrokenDownload)
	t.Run("DeleteImage and the import of another revision remove what a download left", s.testAbandonedDownload)
}

func digestOf(b []byte) digest.Digest { return digest.FromBytes(b) }

// rawDisk is the content of a disk.
func rawDisk() []byte {
	b := make([]byte, diskSize)
	copy(b, bytes.Repeat([]byte("sandboxd"), 8<<10))
	b[510], b[511] = 0x55, 0xaa // a boot record: raw is detected
	return b
}

func (s *suite) sourceSpec(t *testing.T, source v1.ImageSource) providers.ImageSpec {
	spec := s.imageSpec(t.Name())
	spec.Source = source
	return spec
}

func (s *suite) testKindsOfSources(t *testing.T) {
	web, disk := newShelf(t), rawDisk()
	sums := web.put("/SHA256SUMS", []byte(strings.Repeat("0", 64)+"  other.raw\n"+sum(disk)+" *disk.raw\n"))
	address := web.put("/disk.raw", disk)
	layer := descriptor(providers.ArtifactMediaType(v1.DiskFormatRaw), disk)
	artifact := manifest(t, layer)
	for name, tc := range map[string]struct {
		source v1.ImageSource
		digest []byte
		format v1.DiskFormat
	}{
		"an address and a digest":       {source: v1.ImageSource{Disk: &v1.DiskSource{URL: address, SHA256: sum(disk)}}},
		"an address and checksums":      {source: v1.ImageSource{Disk: &v1.DiskSource{URL: address, ChecksumURL: sums}}},
		"an address alone":              {source: v1.ImageSource{Disk: diskAt(address)}},
		"an address that is redirected": {source: v1.ImageSource{Disk: diskAt(web.serve("/moved", http.RedirectHandler("/disk.raw", http.StatusFound).ServeHTTP))}},
		"a server that does not say how much comes": {source: v1.ImageSource{Disk: diskAt(web.serve("/chunked", func(w http.ResponseWriter, _ *http.Request) {
			for part := range slices.Chunk(disk, 100<<10) {
				_, _ = w.Write(part)
				w.(http.Flusher).Flush()
			}
		}))}},
		"a disk packed with gzip":   packed(web, "/disk.raw.gz", gzipped(t, disk), ""),
		"an OVA":                    packed(web, "/machine.ova", archive(t, description("disk.raw"), member{name: "disk.raw", content: disk}), v1.DiskFormatOVA),
		"an artifact of a registry": {source: v1.ImageSource{OCI: &v1.OCISource{Reference: web.push("team/disk", artifact, disk), PlainHTTP: true}}},
		"an artifact of a digest": {source: v1.ImageSource{OCI: &v1.OCISource{
			Reference: strings.TrimPrefix(web.URL, "http://") + "/team/disk@" + digestOf(artifact).String(), Digest: digestOf(artifact).String(), PlainHTTP: true,
		}}},
		"an artifact of others": {source: v1.ImageSource{OCI: &v1.OCISource{
			Reference: web.push("others/disk", manifest(t, descriptor("application/octet-stream", disk)), disk), PlainHTTP: true,
		}}},
		"an artifact in a folder":       {source: v1.ImageSource{OCI: &v1.OCISource{Layout: layout(t, artifact, disk)}}},
		"an artifact of a tag of these": {source: v1.ImageSource{OCI: &v1.OCISource{Layout: layout(t, artifact, disk), Tag: "v1", Digest: digestOf(artifact).String()}}},
	} {
		t.Run(name, func(t *testing.T) {
			spec := s.sourceSpec(t, tc.source)
			must(t, "check", s.p.CheckSource(s.ctx(t), spec))
			img := s.importFor(t, spec)
			from, format := disk, v1.DiskFormatRaw
			if tc.digest != nil {
				from = tc.digest
			}
			if tc.format != "" {
				format = tc.format
			}
			if img.Digest != "sha256:"+sum(from) || img.Format != format || img.VirtualSize != diskSize {
				t.Errorf("a raw disk of %d bytes became %+v, not of format %q and digest %s", diskSize, img, format, sum(from))
			}
			if r := s.resources(t, ownedBy(spec.UID)); len(r) != 1 || r[0].Kind != providers.ResourceImage {
				t.Errorf("besides the image there is %+v", r)
			}
		})
	}
}

func packed(web *shelf, path string, file []byte, format v1.DiskFormat) (of struct {
	source v1.ImageSource
	digest []byte
	format v1.DiskFormat
},
) {
	of.source, of.digest, of.format = v1.ImageSource{Disk: diskAt(web.put(path, file))}, file, format
	return of
}

func (s *suite) testFormats(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("there is no qemu-img to make disks with")
	}
	web, dir := newShelf(t), t.TempDir()
	raw := filepath.Join(dir, "disk.raw")
	must(t, "write", os.WriteFile(raw, rawDisk(), 0o644))
	for _, tc := range []struct {
		format  v1.DiskFormat
		options []string
	}{
		{v1.DiskFormatQCOW2, []string{"-O", "qcow2", "-c"}},
		{v1.DiskFormatVDI, []string{"-O", "vdi"}},
		{v1.DiskFormatVMDK, []string{"-O", "vmdk", "-o", "subformat=monolithicSparse"}},
		{v1.DiskFormatVMDK, []string{"-O", "vmdk", "-o", "subformat=streamOptimized"}},
		{v1.DiskFormatVHD, []string{"-O", "vpc", "-o", "force_size=on"}},
		{v1.DiskFormatVHDX, []string{"-O", "vhdx"}},
	} {
		t.Run(strings.Join(tc.options, " "), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk")
			if out, err := exec.Command("qemu-img", append(append([]string{"convert", "-f", "raw"}, tc.options...), raw, path)...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			file, err := os.ReadFile(path)
			must(t, "read", err)
			img := s.importFor(t, s.sourceSpec(t, v1.ImageSource{Disk: diskAt(web.put("/"+filepath.Base(filepath.Dir(path)), file))}))
			if img.Format != tc.format || img.VirtualSize < diskSize || img.Digest != "sha256:"+sum(file) {
				t.Errorf("it became %+v", img)
			}
		})
	}
}

func (s *suite) testHostileSources(t *testing.T) {
	web, disk := newShelf(t), rawDisk()
	address := web.put("/disk.raw", disk)
	at := func(path string, content []byte) v1.ImageSource {
		return v1.ImageSource{Disk: diskAt(web.put(path, content))}
	}
	answered := func(path string, page http.HandlerFunc) v1.ImageSource {
		return v1.ImageSource{Disk: diskAt(web.serve(path, page))}
	}
	registry := func(name string, m []byte, blobs ...[]byte) v1.ImageSource {
		return v1.ImageSource{OCI: &v1.OCISource{Reference: web.push(name, m, blobs...), PlainHTTP: true}}
	}
	ovf, raw := description("disk.raw"), member{name: "disk.raw", content: disk}
	layer := descriptor(providers.ArtifactMediaType(v1.DiskFormatRaw), disk)
	mib := resource.MustParse("512Ki")
	huge := qcow2("", 0)
	binary.BigEndian.PutUint64(huge[24:], 10<<40)
	encrypted := qcow2("", 0)
	binary.BigEndian.PutUint32(encrypted[32:], 1)
	none := web.put("/NONE", []byte("nothing of the sort\n"))
	other := web.put("/OTHER", []byte(strings.Repeat("0", 64)+"  disk.raw\n"))
	for name, tc := range map[string]struct {
		source v1.ImageSource
		kind   error
		reason string
	}{
		"a digest that is another":          {v1.ImageSource{Disk: &v1.DiskSource{URL: address, SHA256: strings.Repeat("0", 64)}}, providers.ErrInvalid, providers.ReasonDigestMismatch},
		"checksums that say another":        {v1.ImageSource{Disk: &v1.DiskSource{URL: address, ChecksumURL: other}}, providers.ErrInvalid, providers.ReasonDigestMismatch},
		"checksums that do not name it":     {v1.ImageSource{Disk: &v1.DiskSource{URL: address, ChecksumURL: none}}, providers.ErrInvalid, ""},
		"checksums that are not there":      {v1.ImageSource{Disk: &v1.DiskSource{URL: address, ChecksumURL: web.URL + "/nothing"}}, providers.ErrNotFound, providers.ReasonSourceNotFound},
		"an address that gives nothing":     {v1.ImageSource{Disk: diskAt(web.URL + "/nothing")}, providers.ErrNotFound, providers.ReasonSourceNotFound},
		"a server that refuses":             {answered("/403", status(http.StatusForbidden)), providers.ErrInvalid, ""},
		"a server that is broken":           {answered("/500", status(http.StatusInternalServerError)), providers.ErrUnavailable, ""},
		"a server that is not there":        {v1.ImageSource{Disk: diskAt("http://127.0.0.1:1/disk.raw")}, providers.ErrUnavailable, ""},
		"a server that redirects for ever":  {answered("/loop", http.RedirectHandler("/loop", http.StatusFound).ServeHTTP), providers.ErrInvalid, ""},
		"a download that is cut off":        {answered("/cut", cut(disk, "")), providers.ErrUnavailable, ""},
		"a download that stalls":            {answered("/stall", stall(disk)), providers.ErrUnavailable, ""},
		"a download larger than it may be":  {v1.ImageSource{Disk: &v1.DiskSource{URL: address, MaxSize: &mib}}, providers.ErrInvalid, ""},
		"a page and no disk":                {at("/page", []byte("<html>log in first</html>")), providers.ErrInvalid, providers.ReasonFormatMismatch},
		"an empty file":                     {at("/empty", nil), providers.ErrInvalid, ""},
		"a format that is another":          {v1.ImageSource{Disk: &v1.DiskSource{URL: address, Format: v1.DiskFormatVDI}}, providers.ErrInvalid, providers.ReasonFormatMismatch},
		"a ZIP":                             {at("/zip", []byte("PK\x03\x04and so on")), providers.ErrInvalid, providers.ReasonFormatMismatch},
		"an xz":                             {at("/xz", []byte("\xfd7zXZ\x00and so on")), providers.ErrInvalid, providers.ReasonFormatMismatch},
		"a gzip that is cut off":            {at("/cut.gz", gzipped(t, disk)[:1000]), providers.ErrInvalid, providers.ReasonFormatMismatch},
		"a gzip in a gzip":                  {at("/gz.gz", gzipped(t, gzipped(t, disk))), providers.ErrInvalid, providers.ReasonFormatMismatch},
		"a backing file":                    {at("/backing", qcow2("/etc/passwd", 0)), providers.ErrInvalid, providers.ReasonBackingFile},
		"a backing file in a gzip":          {at("/backing.gz", gzipped(t, qcow2("/etc/passwd", 0))), providers.ErrInvalid, providers.ReasonBackingFile},
		"a data file":                       {at("/data", qcow2("", 1<<2)), providers.ErrInvalid, providers.ReasonBackingFile},
		"an encrypted disk":                 {at("/encrypted", encrypted), providers.ErrInvalid, providers.ReasonFormatMismatch},
		"a disk of 10 TiB":                  {at("/huge", huge), providers.ErrInvalid, ""},
		"an OVA with a way out":             {at("/1.ova", archive(t, ovf, raw, member{name: "../disk.raw"})), providers.ErrInvalid, providers.ReasonFormatMismatch},
		"an OVA whose disk is elsewhere":    {at("/2.ova", archive(t, description("../../etc/passwd"), raw)), providers.ErrInvalid, providers.ReasonFormatMismatch},
		"an OVA with a link":                {at("/3.ova", archive(t, ovf, member{name: "disk.raw", kind: tar.TypeSymlink})), providers.ErrInvalid, providers.ReasonFormatMismatch},
		"an OVA of two disks":               {at("/4.ova", archive(t, description("disk.raw", "b.raw"), raw, member{name: "b.raw", content: disk})), providers.ErrInvalid, providers.ReasonFormatMismatch},
		"an OVA with a backing file":        {at("/5.ova", archive(t, description("a.qcow2"), member{name: "a.qcow2", content: qcow2("/etc/passwd", 0)})), providers.ErrInvalid, providers.ReasonBackingFile},
		"an OVA with a packed disk":         {at("/6.ova", archive(t, description("a.gz"), member{name: "a.gz", content: gzipped(t, disk)})), providers.ErrInvalid, providers.ReasonFormatMismatch},
		"an archive that is no OVA":         {at("/7.ova", archive(t, raw)), providers.ErrInvalid, providers.ReasonFormatMismatch},
		"an artifact that is not there":     {v1.ImageSource{OCI: &v1.OCISource{Reference: strings.TrimPrefix(web.URL, "http://") + "/no:thing", PlainHTTP: true}}, providers.ErrNotFound, providers.ReasonSourceNotFound},
		"an artifact of another digest":     {v1.ImageSource{OCI: &v1.OCISource{Layout: layout(t, manifest(t, layer), disk), Digest: "sha256:" + strings.Repeat("0", 64)}}, providers.ErrInvalid, providers.ReasonDigestMismatch},
		"an artifact that was changed":      {v1.ImageSource{OCI: &v1.OCISource{Layout: tampered(t, manifest(t, layer), disk)}}, providers.ErrInvalid, providers.ReasonDigestMismatch},
		"a container image":                 {registry("container", manifest(t, descriptor("application/vnd.oci.image.layer.v1.tar+gzip", disk)), disk), providers.ErrInvalid, providers.ReasonFormatMismatch},
		"an artifact of two layers":         {registry("two", manifest(t, layer, layer), disk), providers.ErrInvalid, providers.ReasonFormatMismatch},
		"an artifact of another format":     {registry("format", manifest(t, descriptor(providers.ArtifactMediaType(v1.DiskFormatVDI), disk)), disk), providers.ErrInvalid, providers.ReasonFormatMismatch},
		"an artifact larger than may be":    {registry("large", manifest(t, descriptorOf(layer, 10<<40)), disk), providers.ErrInvalid, providers.ReasonFormatMismatch},
		"a folder that holds no artifact":   {v1.ImageSource{OCI: &v1.OCISource{Layout: s.b.Folder(t)}}, providers.ErrNotFound, providers.ReasonSourceNotFound},
		"an artifact behind a strange name": {v1.ImageSource{OCI: &v1.OCISource{Reference: "registry"}}, providers.ErrInvalid, ""},
	} {
		t.Run(name, func(t *testing.T) {
			spec := s.sourceSpec(t, tc.source)
			_, err := s.p.ImportImage(s.ctx(t), spec, nil)
			want(t, "import", err, tc.kind)
			var e *providers.Error
			if tc.reason != "" && (!errors.As(err, &e) || e.Reason != tc.reason) {
				t.Errorf("the error %q has the reason %q, not %q", err, providers.ReasonOf(err), tc.reason)
			}
			s.wantNothing(t, spec)
		})
	}
}

// wantNothing checks that a failed import left nothing.
func (s *suite) wantNothing(t *testing.T, spec providers.ImageSpec) {
	t.Helper()
	s.wantNoImage(t, spec.ImageRef)
	if left := s.resources(t, ownedBy(spec.UID)); len(left) > 0 {
		t.Errorf("left of the import: %+v", left)
	}
}
