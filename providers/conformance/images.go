package conformance

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

func (s *suite) testImages(t *testing.T) {
	t.Run("ImportImage verifies, seals and then returns at once what was sealed", s.testImport)
	t.Run("ImportImage and CheckSource refuse what is wrong with a reason and leave nothing", s.testBadSources)
	t.Run("ImportImage that is cancelled leaves nothing and the next call begins anew", s.testCancelledImport)
	t.Run("ImportImage may be called by many at once", s.testParallelImport)
	t.Run("a changed source makes a new revision beside the old one", s.testRevisions)
	t.Run("DeleteImage is ErrBusy while a machine depends on it, and ErrNotFound when there is nothing", s.testDeleteImage)
}

// imported imports an image that is removed with the test.
func (s *suite) importFor(t *testing.T, spec providers.ImageSpec) providers.Image {
	t.Helper()
	t.Cleanup(func() { s.removeImage(t, spec.ImageRef) })
	img, err := s.p.ImportImage(s.ctx(t), spec, nil)
	must(t, "import", err)
	return img
}

func (s *suite) testImport(t *testing.T) {
	spec := s.imageSpec(t.Name())
	t.Cleanup(func() { s.removeImage(t, spec.ImageRef) })
	must(t, "check", s.p.CheckSource(s.ctx(t), spec))
	s.wantNoImage(t, spec.ImageRef)
	var mu sync.Mutex
	var reports []providers.Progress
	got, err := s.p.ImportImage(s.ctx(t), spec, func(p providers.Progress) {
		mu.Lock()
		defer mu.Unlock()
		reports = append(reports, p)
	})
	must(t, "import", err)
	if got.ImageRef != spec.ImageRef || got.Digest != "sha256:"+spec.Source.Disk.SHA256 || got.Format == "" ||
		got.VirtualSize <= 0 || got.ActualSize <= 0 || got.SealedAt.IsZero() {
		t.Errorf("the image is %+v", got)
	}
	mu.Lock()
	if len(reports) == 0 {
		t.Error("no progress was reported")
	}
	for _, r := range reports {
		if r.Stage == "" || r.Done < 0 || r.Total < 0 || r.Total > 0 && r.Done > r.Total {
			t.Errorf("progress of %+v", r)
		}
	}
	mu.Unlock()
	observed, err := s.p.GetImage(s.ctx(t), spec.ImageRef)
	must(t, "get image", err)
	again, err := s.p.ImportImage(s.ctx(t), spec, nil)
	must(t, "second import", err)
	for what, img := range map[string]providers.Image{"GetImage": observed, "the second import": again} {
		if !img.SealedAt.Equal(got.SealedAt) {
			t.Errorf("%s: sealed at %s, not at %s", what, img.SealedAt, got.SealedAt)
		}
		img.SealedAt = got.SealedAt
		if img != got {
			t.Errorf("%s: %+v, not %+v", what, img, got)
		}
	}
	if r := s.resources(t, ownedBy(spec.UID)); len(r) != 1 || r[0].Kind != providers.ResourceImage || r[0].Ownership != providers.Ours {
		t.Errorf("the image is listed as %+v", r)
	}
}

func (s *suite) testBadSources(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		must(t, "write", os.WriteFile(path, content, 0o644))
		return path
	}
	disk := func(d v1.DiskSource) v1.ImageSource { return v1.ImageSource{Disk: &d} }
	golden := s.b.Image.Path
	for name, tc := range map[string]struct {
		source v1.ImageSource
		reason string
		kinds  []error
	}{
		"a file that does not exist": {
			disk(v1.DiskSource{Path: filepath.Join(dir, "nope")}),
			providers.ReasonSourceNotFound,
			[]error{providers.ErrNotFound},
		},
		"another digest": {
			disk(v1.DiskSource{Path: golden, SHA256: strings.Repeat("0", 64)}),
			providers.ReasonDigestMismatch,
			[]error{providers.ErrInvalid},
		},
		"another format": {
			disk(v1.DiskSource{Path: golden, Format: v1.DiskFormatVHDX}),
			providers.ReasonFormatMismatch,
			[]error{providers.ErrInvalid},
		},
		"a backing file": {
			disk(v1.DiskSource{Path: file("backing.qcow2", qcow2("/etc/passwd", 0))}),
			providers.ReasonBackingFile,
			[]error{providers.ErrInvalid},
		},
		"a backing file under the name of another format": {
			disk(v1.DiskSource{Path: file("backing.raw", qcow2("json:{}", 0)), Format: v1.DiskFormatQCOW2}),
			providers.ReasonBackingFile,
			[]error{providers.ErrInvalid},
		},
		"a data file": {
			disk(v1.DiskSource{Path: file("data.qcow2", qcow2("", 1<<2))}),
			providers.ReasonBackingFile,
			[]error{providers.ErrInvalid},
		},
		"a qcow2 header that was cut off": {
			disk(v1.DiskSource{Path: file("short.qcow2", []byte("QFI\xfb\x00\x00\x00\x03")), Format: v1.DiskFormatQCOW2}),
			"",
			[]error{providers.ErrInvalid},
		},
		"an empty file":   {disk(v1.DiskSource{Path: file("empty", nil)}), "", []error{providers.ErrInvalid}},
		"a directory":     {disk(v1.DiskSource{Path: dir}), "", []error{providers.ErrInvalid}},
		"a relative path": {disk(v1.DiskSource{Path: "golden.qcow2"}), "", []error{providers.ErrInvalid}},
		"no source":       {v1.ImageSource{}, "", []error{providers.ErrInvalid, providers.ErrUnsupported}},
	} {
		t.Run(name, func(t *testing.T) {
			spec := s.imageSpec(t.Name())
			spec.Source = tc.source
			_, importing := s.p.ImportImage(s.ctx(t), spec, nil)
			for what, err := range map[string]error{
				"import": importing, "check": s.p.CheckSource(s.ctx(t), spec),
			} {
				want(t, what, err, tc.kinds...)
				var e *providers.Error
				if tc.reason != "" && (!errors.As(err, &e) || e.Reason != tc.reason) {
					t.Errorf("%s: the error %q has the reason %q, not %q", what, err, providers.ReasonOf(err), tc.reason)
				}
			}
			s.wantNoImage(t, spec.ImageRef)
		})
	}
}

// qcow2 is the header of a disk of 1 MiB, of version 3.
func qcow2(backing string, incompatible uint64) []byte {
	const cluster = 1 << 16
	b := make([]byte, 4*cluster)
	be := binary.BigEndian
	copy(b, "QFI\xfb")
	be.PutUint32(b[4:], 3)
	if backing != "" {
		be.PutUint64(b[8:], 512)
		be.PutUint32(b[16:], uint32(len(backing)))
		copy(b[512:], backing)
	}
	be.PutUint32(b[20:], 16)        // bits of a cluster
	be.PutUint64(b[24:], 1<<20)     // size
	be.PutUint32(b[36:], 1)         // entries of the L1 table
	be.PutUint64(b[40:], 2*cluster) // the L1 table
	be.PutUint64(b[48:], cluster)   // the table of reference counts
	be.PutUint32(b[56:], 1)
	be.PutUint64(b[72:], incompatible)
	be.PutUint32(b[96:], 4)    // reference counts of 16 bits
	be.PutUint32(b[100:], 104) // length of this header
	return b
}

// wantNoImage checks that nothing passes for an image.
func (s *suite) wantNoImage(t *testing.T, ref providers.ImageRef) {
	t.Helper()
	_, err := s.p.GetImage(s.ctx(t), ref)
	want(t, "get image", err, providers.ErrNotFound)
	images := s.resources(t, func(r providers.Resource) bool {
		return r.Kind == providers.ResourceImage && ownedBy(ref.UID)(r)
	})
	if len(images) > 0 {
		t.Errorf("there are images: %+v", images)
	}
}

func (s *suite) testCancelledImport(t *testing.T) {
	spec := s.imageSpec(t.Name())
	t.Cleanup(func() { s.removeImage(t, spec.ImageRef) })
	ctx, cancel := context.WithCancel(s.ctx(t))
	defer cancel()
	_, err := s.p.ImportImage(ctx, spec, func(providers.Progress) { cancel() })
	want(t, "cancelled import", err, context.Canceled)
	s.wantNoImage(t, spec.ImageRef)
	_, err = s.p.ImportImage(s.ctx(t), spec, nil)
	must(t, "import afterwards", err)
}

func (s *suite) testParallelImport(t *testing.T) {
	spec := s.imageSpec(t.Name())
	t.Cleanup(func() { s.removeImage(t, spec.ImageRef) })
	images := make([]providers.Image, 3)
	var wg sync.WaitGroup
	for i := range images {
		wg.Go(func() {
			var err error
			if images[i], err = s.p.ImportImage(s.ctx(t), spec, nil); err != nil {
				t.Errorf("import: %v", err)
			}
		})
	}
	wg.Wait()
	for _, img := range images {
		if !img.SealedAt.Equal(images[0].SealedAt) {
			t.Errorf("it was sealed more than once: %s and %s", img.SealedAt, images[0].SealedAt)
		}
	}
}

func (s *suite) testRevisions(t *testing.T) {
	one := s.imageSpec(t.Name())
	two := revised(one)
	content := []byte(strings.Repeat("sandboxd", 64<<10))
	path := filepath.Join(t.TempDir(), "disk.raw")
	must(t, "write", os.WriteFile(path, content, 0o644))
	sum := sha256.Sum256(content)
	two.Source.Disk = &v1.DiskSource{Path: path, SHA256: hex.EncodeToString(sum[:]), Format: v1.DiskFormatRaw}
	first := s.importFor(t, one)
	second := s.importFor(t, two)
	if second.VirtualSize != int64(len(content)) || second.Format != v1.DiskFormatRaw {
		t.Errorf("a raw disk of %d bytes became %+v", len(content), second)
	}
	must(t, "delete the first", s.p.DeleteImage(s.ctx(t), one.ImageRef))
	s.wantGoneImage(t, one.ImageRef)
	if got, err := s.p.GetImage(s.ctx(t), two.ImageRef); err != nil || got.Digest == first.Digest {
		t.Errorf("the second is %+v, %v", got, err)
	}
}

func (s *suite) wantGoneImage(t *testing.T, ref providers.ImageRef) {
	t.Helper()
	_, err := s.p.GetImage(s.ctx(t), ref)
	want(t, "get image", err, providers.ErrNotFound)
	want(t, "delete image", s.p.DeleteImage(s.ctx(t), ref), providers.ErrNotFound)
}

func (s *suite) testDeleteImage(t *testing.T) {
	img := s.imageSpec(t.Name())
	want(t, "delete an image that never was", s.p.DeleteImage(s.ctx(t), img.ImageRef), providers.ErrNotFound)
	s.importFor(t, img)
	spec := s.spec(t, "clone")
	spec.Image = img.ImageRef
	id := s.made(t, spec)
	want(t, "delete an image in use", s.p.DeleteImage(s.ctx(t), img.ImageRef), providers.ErrBusy)
	if _, err := s.p.GetImage(s.ctx(t), img.ImageRef); err != nil {
		t.Errorf("a refused deletion took the image away: %v", err)
	}
	s.remove(t, id)
	must(t, "delete an image that is in use no more", s.p.DeleteImage(s.ctx(t), img.ImageRef))
	s.wantGoneImage(t, img.ImageRef)
}
