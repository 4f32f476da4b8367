package source

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/fetch"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/ova"
)

// packing is what a file may be packed in.
type packing struct {
	name, magic string
	// open reads what is inside; nil where that is not done.
	open func(io.Reader) (io.ReadCloser, error)
}

// packings by their first bytes, none of which is those of a disk.
var packings = []packing{
	{"gzip", "\x1f\x8b", func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }},
	{"zstd", "\x28\xb5\x2f\xfd", openZstd},
	{"xz", "\xfd7zXZ\x00", nil},
	{"bzip2", "BZh", nil},
	{"ZIP", "PK\x03\x04", nil},
	{"ZIP", "PK\x05\x06", nil},
	{"7-Zip", "7z\xbc\xaf\x27\x1c", nil},
	{"RAR", "Rar!\x1a\x07", nil},
}

// openZstd reads zstd with a bounded window, in this goroutine.
func openZstd(r io.Reader) (io.ReadCloser, error) {
	const window = 128 << 20
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(window))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

// packingOf finds out what a file is packed in, if anything.
func packingOf(r io.ReaderAt) (packing, bool) {
	head := make([]byte, 8)
	n, _ := r.ReadAt(head, 0)
	for _, p := range packings {
		if bytes.HasPrefix(head[:n], []byte(p.magic)) {
			return p, true
		}
	}
	return packing{}, false
}

// isArchive tells whether a file is to be read as an OVA. A raw disk may begin
// with anything, when the manifest says that it is one.
func isArchive(r io.ReaderAt, want v1.DiskFormat) bool {
	return want == v1.DiskFormatOVA || want == "" && ova.Is(r)
}

// unpack takes the disk out of what it is packed in, if it is: into the file to.
// It is packed once at most.
func (j Job) unpack(ctx context.Context, got *Obtained, to string) error {
	if p, packed := packingOf(got); packed {
		if p.open == nil {
			return refusePacking(j.Object, j.Origin.String(), p)
		}
		return j.decompress(ctx, got, p, to)
	}
	if !isArchive(got, got.Want) {
		return nil
	}
	disk, err := diskInOVA(j.Object, j.Origin, got.File, j.Origin.limit(j.MaxBytes))
	if err != nil {
		return err
	}
	got.Packed, got.Want = v1.DiskFormatOVA, ""
	return j.replace(ctx, got, io.NewSectionReader(got.File, disk.Offset, disk.Size), disk.Size, to)
}

func refusePacking(object, what string, p packing) error {
	return providers.Errorf(providers.ErrInvalid, object, "%s is packed with %s, which is not unpacked here: unpack it and name the disk in it (gzip and zstd are unpacked)", what, p.name).
		WithReason(providers.ReasonFormatMismatch)
}

// diskInOVA finds the disk in an OVA. It must be a disk, not packed again.
func diskInOVA(object string, o Origin, f *os.File, limit int64) (ova.Disk, error) {
	refuse := func(err error) error {
		return providers.Errorf(providers.ErrInvalid, object, "%s: %w", o, err).WithReason(providers.ReasonFormatMismatch)
	}
	info, err := f.Stat()
	if err != nil {
		return ova.Disk{}, err
	}
	if !ova.Is(f) {
		return ova.Disk{}, refuse(errors.New("it is no tar archive, and so no OVA"))
	}
	disk, err := ova.Find(f, info.Size(), limit)
	if err != nil {
		return ova.Disk{}, refuse(err)
	}
	if p, packed := packingOf(io.NewSectionReader(f, disk.Offset, disk.Size)); packed {
		return ova.Disk{}, refuse(errors.New("its disk is packed with " + p.name + ": export the machine without compressing its files"))
	}
	return disk, nil
}

func (j Job) decompress(ctx context.Context, got *Obtained, p packing, to string) error {
	from := io.NewSectionReader(got.File, 0, 1<<62)
	r, err := p.open(from)
	if err != nil {
		return j.damaged(p, err)
	}
	defer func() { _ = r.Close() }()
	return j.replace(ctx, got, &unpacking{r, func(err error) error { return j.damaged(p, err) }}, 0, to)
}

// unpacking gives errors of the packing a kind.
type unpacking struct {
	io.Reader
	word func(error) error
}

func (u *unpacking) Read(b []byte) (int, error) {
	n, err := u.Reader.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		err = u.word(err)
	}
	return n, err
}

// damaged does not wrap: an end of the file that is none is not to be taken for one.
func (j Job) damaged(p packing, err error) error {
	return providers.Errorf(providers.ErrInvalid, j.Object, "%s cannot be unpacked with %s, it is damaged or cut off: %v", j.Origin, p.name, err).
		WithReason(providers.ReasonFormatMismatch)
}

// replace writes the disk to a file of its own, which takes the place of what was
// obtained.
func (j Job) replace(ctx context.Context, got *Obtained, r io.Reader, total int64, to string) error {
	j.Step()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	bounded := &bounded{Reader: r, job: j, dir: filepath.Dir(to), limit: j.Origin.limit(j.MaxBytes)}
	report := func(done int64) {
		j.Progress(providers.Progress{Stage: "unpacking", Done: done, Total: max(total, 0)})
	}
	if err := Copy(ctx, bounded, dst, nil, report); err != nil {
		_ = dst.Close()
		return err
	}
	_ = got.Close()
	got.File = dst
	if p, packed := packingOf(dst); packed {
		return providers.Errorf(providers.ErrInvalid, j.Object, "%s holds something that is packed again, with %s: unpack it and name the disk in it", j.Origin, p.name).
			WithReason(providers.ReasonFormatMismatch)
	}
	return nil
}

// bounded ends what unpacks to more than it may, or takes the last space.
type bounded struct {
	io.Reader
	job           Job
	dir           string
	limit         int64
	done, checked int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.done += int64(n)
	const every = 64 << 20
	switch {
	case b.done > b.limit:
		return n, providers.Errorf(providers.ErrInvalid, b.job.Object, "%s unpacks to more than the limit of %d bytes", b.job.Origin, b.limit)
	case b.done-b.checked < every:
	default:
		b.checked = b.done
		if free := files.Free(b.dir); free < fetch.Margin {
			return n, providers.Errorf(providers.ErrCapacity, b.job.Object, "unpacking it needs more space in %s than the %d MiB that are free", b.dir, free>>20)
		}
	}
	return n, err
}
