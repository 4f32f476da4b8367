// Package source reads what golden images are made of: files of the host, files
// behind addresses, and artifacts in registries and folders.
//
//	Of(spec) ─┬─ path    ──▶ Open, Stage: copy and hash ─┐
//	          ├─ url     ──▶ package fetch               ├─▶ verify ─▶ unpack ─▶ Examine ─▶ Convert
//	          └─ oci     ──▶ manifest, then either       ┘   digest    OVA,      header,
//	                                                                   gzip,     then qemu-img
//	                                                                   zstd
//
// Everything happens in the folder of one import (Begin, End), to which a source
// is brought whole before anybody looks at it, so that what was hashed and looked
// at is what is converted, whoever changes the source meanwhile. After an import
// nothing of that folder is left, but for a download that broke off and that the
// next import can go on with.
//
// Sources are hostile. A disk that refers to other files of the host is refused,
// sizes are bounded before and while anything is written, and names inside of an
// archive or artifact never become paths.
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
// only hashes, and without a hash it only copies.
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
		if sum != nil {
			_, _ = sum.Write(b)
		}
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

// Header reads what the header of an obtained disk says, and refuses what is not
// a plain disk or is larger than it may be.
func (j Job) Header(got Obtained) (qemuimg.Header, error) {
	info, err := got.Stat()
	if err != nil {
		return qemuimg.Header{}, err
	}
	h, err := qemuimg.Inspect(got, info.Size(), got.Want)
	if err != nil {
		return h, Error(j.Object, j.Origin.String(), err)
	}
	return h, j.fits(h.VirtualSize)
}

func (j Job) fits(size int64) error {
	if limit := j.Origin.limit(j.MaxBytes); size > limit {
		return providers.Errorf(providers.ErrInvalid, j.Object, "its disk of %d MiB, as a guest sees it, is larger than the limit of %d MiB: make a smaller one", size>>20, limit>>20)
	}
	return nil
}

// Examine finds an obtained disk's format and virtual size, and refuses what is
// not a plain disk or is larger than it may be. After the header is read here,
// qemu-img has its say.
func (j Job) Examine(ctx context.Context, got Obtained) (v1.DiskFormat, int64, error) {
	h, err := j.Header(got)
	if err != nil {
		return "", 0, err
	}
	i, err := j.Tool.Info(ctx, got.Name(), h.Format)
	if err != nil {
		return "", 0, Error(j.Object, j.Origin.String(), err)
	}
	return h.Format, i.VirtualSize, j.fits(i.VirtualSize)
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

// DigestOf computes the digest of a file of our own, as sha256:HEX.
func DigestOf(ctx context.Context, path string, progress func(providers.Progress)) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	err = Copy(ctx, f, nil, sum, func(done int64) {
		progress(providers.Progress{Stage: "reading", Done: done, Total: info.Size()})
	})
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), err
}
