// Package source reads the image files that golden images are made of.
//
//	Of(spec) ──▶ Open ──▶ Stage: copy and hash ──▶ Examine: header, then qemu-img
//
// A source is opened once and copied to where nobody else can change it, so that
// what was hashed and looked at is what is converted, whoever changes the source
// meanwhile. Image files are hostile: one that refers to other files of the host
// is refused.
package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/qemuimg"
)

// margin is the space left free besides what an import is known to need, in
// bytes.
const margin = 64 << 20

// Of returns the disk that an image is imported from, if it is a file that can
// be. The provider is named in messages.
func Of(object string, provider v1.ProviderName, spec providers.ImageSpec) (*v1.DiskSource, error) {
	d := spec.Source.Disk
	switch {
	case spec.From != nil:
		return nil, providers.Errorf(providers.ErrUnsupported, object, "the %s provider cannot make an image of a machine's disk", provider)
	case d == nil:
		return nil, providers.Errorf(providers.ErrUnsupported, object, "the %s provider cannot make an image of this kind of source: set spec.source.disk", provider)
	case d.Path == "":
		return nil, providers.Errorf(providers.ErrUnsupported, object, "the %s provider does not download images: fetch the file and set spec.source.disk.path", provider)
	case !filepath.IsAbs(d.Path):
		return nil, providers.Errorf(providers.ErrInvalid, object, "the source %q is not an absolute path", d.Path)
	}
	return d, nil
}

// Check looks for what is wrong with a source as providers.Images.CheckSource
// does: it reads the header itself and, of a file that is small enough, the
// digest; qemu-img has its say at the import.
func Check(ctx context.Context, object string, disk *v1.DiskSource) error {
	src, err := Open(object, disk.Path)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if _, err := qemuimg.Inspect(src, info.Size(), disk.Format); err != nil {
		return Error(object, disk.Path, err)
	}
	if disk.SHA256 == "" || info.Size() > providers.MaxCheckedDigest {
		return nil
	}
	sum := sha256.New()
	if err := Copy(ctx, src, nil, sum, func(int64) {}); err != nil {
		return err
	}
	return CheckDigest(object, disk, hex.EncodeToString(sum.Sum(nil)))
}

// CheckDigest compares a file's sha256 with the one that it must have, if any.
func CheckDigest(object string, disk *v1.DiskSource, digest string) error {
	if disk.SHA256 == "" || disk.SHA256 == digest {
		return nil
	}
	return providers.Errorf(providers.ErrInvalid, object, "%s has sha256 %s, but spec.source.disk.sha256 is %s",
		disk.Path, digest, disk.SHA256).WithReason(providers.ReasonDigestMismatch)
}

// Stage copies the source to a file that nobody else can change and returns it
// with its sha256. It makes sure that the file system has room for the copy and
// for an image made of it.
func Stage(ctx context.Context, object, path, to string, progress func(providers.Progress)) (_ *os.File, digest string, err error) {
	src, err := Open(object, path)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = src.Close() }()
	info, err := src.Stat()
	if err != nil {
		return nil, "", err
	}
	dir := filepath.Dir(to)
	if need, free := 2*files.Allocated(info)+margin, files.Free(dir); free < need {
		return nil, "", providers.Errorf(providers.ErrCapacity, object,
			"importing it needs about %d MiB in %s, where %d MiB are free", need>>20, dir, free>>20)
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, "", err
	}
	defer func() {
		if err != nil {
			_ = dst.Close()
		}
	}()
	sum := sha256.New()
	from, out := io.Reader(io.LimitReader(src, info.Size())), dst // it may grow for ever
	if clone(dst, src) {
		from, out = dst, nil
	}
	report := func(done int64) { progress(providers.Progress{Stage: "reading", Done: done, Total: info.Size()}) }
	if err := Copy(ctx, from, out, sum, report); err != nil {
		return nil, "", err
	}
	return dst, hex.EncodeToString(sum.Sum(nil)), nil
}

// Open opens an image file. Its path was resolved before; that no part of it has
// become a symlink since, the kernel checks.
func Open(object, path string) (*os.File, error) {
	fd, err := openNoSymlinks(path)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return nil, providers.Errorf(providers.ErrNotFound, object, "the source %s does not exist", path).WithReason(providers.ReasonSourceNotFound)
	case errors.Is(err, unix.ELOOP):
		return nil, providers.Errorf(providers.ErrInvalid, object, "the source %s is or lies behind a symbolic link", path)
	case err != nil:
		return nil, providers.Errorf(providers.ErrInvalid, object, "the source %s cannot be opened: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		_ = f.Close()
		return nil, providers.Errorf(providers.ErrInvalid, object, "the source %s is not a regular file", path)
	}
	return f, nil
}

// Copy copies and hashes; blocks of zeros become holes. With a nil target it
// only hashes.
func Copy(ctx context.Context, from io.Reader, to *os.File, sum hash.Hash, report func(done int64)) error {
	const block = 1 << 20
	buf, zeros := make([]byte, block), make([]byte, block)
	var done int64
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(from, buf)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		last := err != nil
		b := buf[:n]
		_, _ = sum.Write(b)
		if to != nil && !bytes.Equal(b, zeros[:n]) {
			if _, err := to.WriteAt(b, done); err != nil {
				return err
			}
		}
		done += int64(n)
		report(done)
		if !last {
			continue
		}
		if to != nil {
			return to.Truncate(done)
		}
		return nil
	}
}

// Examine finds a staged file's format and virtual size, and refuses what is
// not a plain disk or is larger than limit bytes.
func Examine(ctx context.Context, tool qemuimg.Tool, object string, staged *os.File, disk *v1.DiskSource, limit int64) (v1.DiskFormat, int64, error) {
	info, err := staged.Stat()
	if err != nil {
		return "", 0, err
	}
	h, err := qemuimg.Inspect(staged, info.Size(), disk.Format)
	if err != nil {
		return "", 0, Error(object, disk.Path, err)
	}
	i, err := tool.Info(ctx, staged.Name(), h.Format)
	if err != nil {
		return "", 0, Error(object, disk.Path, err)
	}
	if i.VirtualSize > limit {
		return "", 0, providers.Errorf(providers.ErrInvalid, object, "its disk of %d GiB is larger than the limit of %d GiB", i.VirtualSize>>30, limit>>30)
	}
	return h.Format, i.VirtualSize, nil
}

// Error words what is wrong with a source.
func Error(object, path string, err error) error {
	switch {
	case errors.Is(err, qemuimg.ErrRefersToOthers):
		return providers.Errorf(providers.ErrInvalid, object, "%s: %w: flatten it first with qemu-img convert", path, err).WithReason(providers.ReasonBackingFile)
	case errors.Is(err, qemuimg.ErrFormat):
		return providers.Errorf(providers.ErrInvalid, object, "%s: %w", path, err).WithReason(providers.ReasonFormatMismatch)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) && exit.ExitCode() > 0 { // qemu-img ran and refused the file
		return providers.Errorf(providers.ErrInvalid, object, "%s: %w", path, err).WithReason(providers.ReasonFormatMismatch)
	}
	return err
}
