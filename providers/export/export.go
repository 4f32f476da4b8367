// Package export writes the disks of images to files that other programs read.
//
//	OpenDisk ─┬─ one layer of the wanted format ──▶ that file, as it is
//	          └─ else ── confined qemu-img ──▶ DIR/export-*.FORMAT ──▶ read, and gone
//
// A file that was written is unlinked before it is read: it goes with whoever reads
// it, and New removes what a process that was killed has left behind.
package export

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/qemuimg"
)

// parallel is how many files are written at a time.
const parallel = 2

// prefix of the files that are written.
const prefix = "export-"

// Formats that a disk can be exported in.
func Formats() []v1.DiskFormat {
	return []v1.DiskFormat{v1.DiskFormatQCOW2, v1.DiskFormatVDI, v1.DiskFormatRaw}
}

// FormatOf is the format that a provider keeps its images in.
func FormatOf(p v1.ProviderName) v1.DiskFormat {
	if p == v1.ProviderVirtualBox {
		return v1.DiskFormatVDI
	}
	return v1.DiskFormatQCOW2
}

// Exporter exports disks. It may be used concurrently.
type Exporter struct {
	dir   string
	tool  qemuimg.Tool
	slots chan struct{}
}

// New makes an Exporter that writes to a folder of its own, which is made and
// emptied.
func New(dir, program string) (*Exporter, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("export folder %s cannot be made: %w", dir, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("export folder %s cannot be read: %w", dir, err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, fmt.Errorf("export folder %s: %w", dir, err)
			}
		}
	}
	return &Exporter{dir: dir, tool: qemuimg.New(program), slots: make(chan struct{}, parallel)}, nil
}

// choices are the formats, in words.
func choices() string {
	var words []string
	for _, f := range Formats() {
		words = append(words, string(f))
	}
	return strings.Join(words, ", ")
}

// Export opens the disk of a sealed image as a file of a format, to be read and
// closed by the caller. Several at a time wait for each other. Its errors have the
// kinds of package providers.
func (e *Exporter) Export(ctx context.Context, p providers.Provider, name string, ref providers.ImageRef, format v1.DiskFormat) (*os.File, error) {
	object := fmt.Sprintf("image %q", name)
	if !slices.Contains(Formats(), format) {
		return nil, providers.Errorf(providers.ErrInvalid, object, "it cannot be exported as %q: choose one of %s", format, choices())
	}
	disk, err := p.OpenDisk(ctx, providers.DiskRef{Image: ref})
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	if len(disk.Layers) != 1 {
		return nil, providers.Errorf(providers.ErrUnsupported, object,
			"its disk is made of %d files of an adopted machine: make an image of a sandbox of it (source.sandbox), and export that", len(disk.Layers))
	}
	layer := disk.Layers[0]
	if layer.Format == format {
		// It is sealed: it does not change, and may be removed while it is read.
		return dup(object, layer.File)
	}
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return e.convert(ctx, object, layer, format)
}

// convert writes another file and opens it.
func (e *Exporter) convert(ctx context.Context, object string, layer providers.DiskLayer, format v1.DiskFormat) (*os.File, error) {
	tmp, err := os.CreateTemp(e.dir, prefix+"*."+string(format))
	if err != nil {
		return nil, failure(object, err)
	}
	_ = tmp.Close()
	defer func() { _ = os.Remove(tmp.Name()) }()
	if err := e.tool.Convert(ctx, layer.File.Name(), layer.Format, tmp.Name(), format, nil); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, failure(object, err)
	}
	f, err := os.Open(tmp.Name())
	if err != nil {
		return nil, failure(object, err)
	}
	return f, nil
}

// dup is a second handle of a file, which outlives the first.
func dup(object string, f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, failure(object, err)
	}
	again := os.NewFile(uintptr(fd), f.Name())
	if _, err := again.Seek(0, 0); err != nil {
		_ = again.Close()
		return nil, failure(object, err)
	}
	return again, nil
}

// failure gives an error a kind.
func failure(object string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return providers.Errorf(providers.ErrCapacity, object, "there is no room in the data folder to export it: %w", err)
	case errors.Is(err, fs.ErrNotExist):
		return providers.Errorf(providers.ErrNotFound, object, "its disk is gone: %w", err)
	}
	return providers.Errorf(providers.ErrUnavailable, object, "it cannot be exported: %w", err)
}
