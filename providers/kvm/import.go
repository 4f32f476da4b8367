package kvm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/qemuimg"
)

// importMargin is the space left free besides what an import is known to
// need, in bytes.
const importMargin = 64 << 20

// ImportImage implements providers.Images.
//
//	source ──copy, hash──▶ REVISION.import/source ──inspect, convert──▶ …/image ──seal──▶ REVISION.qcow2
//
// The source is opened once and copied, so that what was hashed and looked at
// is what is converted, whoever changes the source meanwhile.
func (p *Provider) ImportImage(ctx context.Context, spec providers.ImageSpec, progress func(providers.Progress)) (providers.Image, error) {
	if err := p.ready(ctx); err != nil {
		return providers.Image{}, err
	}
	if err := checkRef(spec.ImageRef); err != nil {
		return providers.Image{}, err
	}
	object := fmt.Sprintf("image %q", spec.Name)
	if progress == nil {
		progress = func(providers.Progress) {}
	}
	unlock, err := p.locks.lock(ctx, imageObject(spec.ImageRef))
	if err != nil {
		return providers.Image{}, err
	}
	defer unlock()
	if img, err := p.readImage(spec.ImageRef); err == nil || !errors.Is(err, providers.ErrNotFound) {
		return img, err
	}
	disk, err := diskSource(object, spec)
	if err != nil {
		return providers.Image{}, err
	}
	img, err := p.importDisk(ctx, object, spec, disk, progress)
	// Half an import is worth nothing; what cannot be removed now is wiped by
	// the next one.
	_ = os.RemoveAll(p.data.staging(spec.ImageRef))
	if err != nil {
		_ = os.Remove(p.data.imageDir(spec.UID))
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return providers.Image{}, p.fileError(object, err)
	}
	return img, nil
}

// diskSource returns the source if it is one that can be imported.
func diskSource(object string, spec providers.ImageSpec) (*v1.DiskSource, error) {
	d := spec.Source.Disk
	switch {
	case d == nil:
		return nil, providers.Errorf(providers.ErrUnsupported, object, "the kvm provider imports disk image files only: set spec.source.disk")
	case d.Path == "":
		return nil, providers.Errorf(providers.ErrUnsupported, object, "the kvm provider does not download images: fetch the file and set spec.source.disk.path")
	case len(spec.Provision) > 0:
		return nil, providers.Errorf(providers.ErrUnsupported, object, "the kvm provider does not run provision steps: prepare the image beforehand")
	case !filepath.IsAbs(d.Path):
		return nil, providers.Errorf(providers.ErrInvalid, object, "the source %q is not an absolute path", d.Path)
	}
	return d, nil
}

func (p *Provider) importDisk(ctx context.Context, object string, spec providers.ImageSpec, disk *v1.DiskSource, progress func(providers.Progress)) (providers.Image, error) {
	dir := p.data.staging(spec.ImageRef)
	if err := os.RemoveAll(dir); err != nil {
		return providers.Image{}, err
	}
	if err := mkdir(filepath.Dir(dir), dirMode); err != nil {
		return providers.Image{}, err
	}
	if err := mkdir(dir, 0o700); err != nil {
		return providers.Image{}, err
	}
	source, digest, err := p.stage(ctx, object, disk.Path, filepath.Join(dir, "source"), progress)
	if err != nil {
		return providers.Image{}, err
	}
	defer func() { _ = source.Close() }()
	if disk.SHA256 != "" && disk.SHA256 != digest {
		return providers.Image{}, providers.Errorf(providers.ErrInvalid, object,
			"%s has sha256 %s, but spec.source.disk.sha256 is %s", disk.Path, digest, disk.SHA256).WithReason(providers.ReasonDigestMismatch)
	}
	format, size, err := p.examine(ctx, object, source, disk)
	if err != nil {
		return providers.Image{}, err
	}
	image := filepath.Join(dir, "image")
	progress(providers.Progress{Stage: "converting", Total: size})
	err = p.img.Convert(ctx, source.Name(), format, image, func(part float64) {
		progress(providers.Progress{Stage: "converting", Done: int64(part * float64(size)), Total: size})
	})
	if err != nil {
		return providers.Image{}, sourceError(object, disk.Path, err)
	}
	return p.seal(spec, image, providers.Image{
		ImageRef: spec.ImageRef, Digest: "sha256:" + digest, Format: format, VirtualSize: size, SealedAt: time.Now().UTC().Truncate(time.Second),
	})
}

// stage copies the source to a file that nobody else can change and returns it
// with its sha256.
func (p *Provider) stage(ctx context.Context, object, path, to string, progress func(providers.Progress)) (_ *os.File, digest string, err error) {
	src, err := openSource(object, path)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = src.Close() }()
	info, err := src.Stat()
	if err != nil {
		return nil, "", err
	}
	if need, free := 2*allocated(info)+importMargin, freeSpace(p.data.root); free < need {
		return nil, "", providers.Errorf(providers.ErrCapacity, object,
			"importing it needs about %d MiB in %s, where %d MiB are free", need>>20, p.data.root, free>>20)
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_RDWR, fileMode)
	if err != nil {
		return nil, "", err
	}
	defer func() {
		if err != nil {
			_ = dst.Close()
		}
	}()
	sum := sha256.New()
	from, write := io.Reader(src), true
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil { // same file system with reflinks: the copy is there
		from, write = dst, false
	}
	report := func(done int64) { progress(providers.Progress{Stage: "reading", Done: done, Total: info.Size()}) }
	if err := copySparse(ctx, from, dst, write, sum, report); err != nil {
		return nil, "", err
	}
	return dst, hex.EncodeToString(sum.Sum(nil)), nil
}

// openSource opens an image file. Its path was resolved before; that no part of
// it has become a symlink since, the kernel checks.
func openSource(object, path string) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, // a FIFO must not block
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
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

// copySparse copies and hashes; blocks of zeros become holes. Without write it
// only hashes.
func copySparse(ctx context.Context, from io.Reader, to *os.File, write bool, sum hash.Hash, report func(done int64)) error {
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
		if write && !bytes.Equal(b, zeros[:n]) {
			if _, err := to.WriteAt(b, done); err != nil {
				return err
			}
		}
		done += int64(n)
		report(done)
		if !last {
			continue
		}
		if write {
			return to.Truncate(done)
		}
		return nil
	}
}

// examine finds the staged file's format and virtual size and refuses what is
// not a plain disk.
func (p *Provider) examine(ctx context.Context, object string, source *os.File, disk *v1.DiskSource) (v1.DiskFormat, int64, error) {
	info, err := source.Stat()
	if err != nil {
		return "", 0, err
	}
	h, err := qemuimg.Inspect(source, info.Size(), disk.Format)
	if err != nil {
		return "", 0, sourceError(object, disk.Path, err)
	}
	i, err := p.img.Info(ctx, source.Name(), h.Format)
	if err != nil {
		return "", 0, sourceError(object, disk.Path, err)
	}
	if i.VirtualSize > p.opts.MaxImageBytes {
		return "", 0, providers.Errorf(providers.ErrInvalid, object, "its disk of %d GiB is larger than the limit of %d GiB", i.VirtualSize>>30, p.opts.MaxImageBytes>>30)
	}
	return h.Format, i.VirtualSize, nil
}

// sourceError words what is wrong with a source.
func sourceError(object, path string, err error) error {
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

// fileError gives an error of the host's files a kind.
func (p *Provider) fileError(object string, err error) error {
	switch {
	case err == nil || providers.KindOf(err) != nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return providers.Errorf(providers.ErrCapacity, object, "no space is left in %s: %w", p.data.root, err)
	case errors.Is(err, fs.ErrPermission):
		return providers.Errorf(providers.ErrUnavailable, object, "sandboxd may not use its data folder: %w; run it as root", err)
	default:
		return providers.Errorf(providers.ErrUnavailable, object, "%w", err)
	}
}

func mkdir(path string, mode os.FileMode) error {
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Chmod(path, mode)
}

// allocated is the space that a file takes, in bytes.
func allocated(info os.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}

// freeSpace is what unprivileged users could still write, in bytes.
func freeSpace(dir string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0
	}
	return int64(st.Bavail) * st.Bsize
}
