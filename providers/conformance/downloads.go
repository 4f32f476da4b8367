package conformance

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// tampered is a layout whose disk was changed since.
func tampered(t testing.TB, manifest, disk []byte) string {
	t.Helper()
	dir := layout(t, manifest, disk)
	changed := append(bytes.Clone(disk[:len(disk)-1]), 1)
	must(t, "write", os.WriteFile(filepath.Join(dir, "blobs/sha256", digestOf(disk).Encoded()), changed, 0o644))
	return dir
}

// descriptorOf is a descriptor that gives another size.
func descriptorOf(d ocispec.Descriptor, size int64) ocispec.Descriptor {
	d.Size = size
	return d
}

func (s *suite) testRecordedDigest(t *testing.T) {
	web, disk := newShelf(t), rawDisk()
	spec := s.sourceSpec(t, v1.ImageSource{Disk: diskAt(web.put("/disk.raw", disk))})
	img := s.importFor(t, spec)
	must(t, "delete image", s.p.DeleteImage(s.ctx(t), spec.ImageRef))

	spec.Digest = img.Digest
	again := s.importFor(t, spec)
	if again.Digest != img.Digest {
		t.Errorf("first %+v, then %+v", img, again)
	}
	must(t, "delete image", s.p.DeleteImage(s.ctx(t), spec.ImageRef))

	changed := append(bytes.Clone(disk[:len(disk)-1]), 1)
	web.put("/disk.raw", changed)
	_, err := s.p.ImportImage(s.ctx(t), spec, nil)
	want(t, "import of a source that was changed", err, providers.ErrInvalid)
	if providers.ReasonOf(err) != providers.ReasonDigestMismatch {
		t.Errorf("the error %q has the reason %q", err, providers.ReasonOf(err))
	}
	s.wantNothing(t, spec)

	spec.Source.Disk.SHA256 = sum(changed) // what the manifest says goes first
	s.importFor(t, spec)
}

// broken imports from a server that breaks off, and looks at what is left.
func (s *suite) broken(t *testing.T, spec providers.ImageSpec) []providers.Resource {
	t.Helper()
	_, err := s.p.ImportImage(s.ctx(t), spec, nil)
	want(t, "import that is cut off", err, providers.ErrUnavailable)
	s.wantNoImage(t, spec.ImageRef)
	left := s.resources(t, ownedBy(spec.UID))
	for _, r := range left {
		if r.Kind != providers.ResourceFile || r.Ownership != providers.Ours || len(r.Owners) != 1 {
			t.Errorf("what is kept of a download is listed as %+v", r)
		}
	}
	return left
}

func (s *suite) testBrokenDownload(t *testing.T) {
	web, disk := newShelf(t), rawDisk()
	address := web.serve("/disk.raw", cut(disk, `"`+sum(disk)[:16]+`"`))
	spec := s.sourceSpec(t, v1.ImageSource{Disk: diskAt(address)})
	t.Cleanup(func() { s.removeImage(t, spec.ImageRef) })
	s.broken(t, spec)
	s.reopen(t)
	web.put("/disk.raw", disk)
	img, err := s.p.ImportImage(s.ctx(t), spec, nil)
	must(t, "import", err)
	if img.Digest != "sha256:"+sum(disk) {
		t.Errorf("of a download in two parts came %+v", img)
	}
	if r := s.resources(t, ownedBy(spec.UID)); len(r) != 1 || r[0].Kind != providers.ResourceImage {
		t.Errorf("besides the image there is %+v", r)
	}

	// A file that is another one by now is not mixed with the part that is there.
	changed := append(bytes.Clone(disk[:len(disk)-1]), 1)
	second := revised(spec)
	t.Cleanup(func() { s.removeImage(t, second.ImageRef) })
	web.serve("/disk.raw", cut(disk, `"`+sum(disk)[:16]+`"`))
	_, err = s.p.ImportImage(s.ctx(t), second, nil)
	want(t, "import that is cut off", err, providers.ErrUnavailable)
	web.put("/disk.raw", changed)
	img, err = s.p.ImportImage(s.ctx(t), second, nil)
	must(t, "import of another file", err)
	if img.Digest != "sha256:"+sum(changed) {
		t.Errorf("of a file that was changed came %+v", img)
	}
}

func (s *suite) testAbandonedDownload(t *testing.T) {
	web, disk := newShelf(t), rawDisk()
	spec := s.sourceSpec(t, v1.ImageSource{Disk: diskAt(web.serve("/cut.raw", cut(disk, `"v1"`)))})
	if left := s.broken(t, spec); len(left) > 0 {
		must(t, "delete what is left", s.p.DeleteImage(s.ctx(t), spec.ImageRef))
	}
	want(t, "delete again", s.p.DeleteImage(s.ctx(t), spec.ImageRef), providers.ErrNotFound)
	s.wantNothing(t, spec)

	s.broken(t, spec)
	second := revised(spec)
	second.Source.Disk = diskAt(web.put("/disk.raw", disk))
	s.importFor(t, second)
	if r := s.resources(t, ownedBy(spec.UID)); len(r) != 1 || r[0].Kind != providers.ResourceImage {
		t.Errorf("besides the second revision there is %+v", r)
	}
}
