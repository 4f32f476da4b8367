package worker

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"sandboxd.dev/sandboxd/disk/change"
	"sandboxd.dev/sandboxd/disk/ext4"
	"sandboxd.dev/sandboxd/disk/volume"
)

const (
	maxPackDepth   = 255
	maxPackEntries = 1 << 20
)

// packer writes files of a disk as a tar stream.
type packer struct {
	fs      *ext4.FS
	tar     *tar.Writer
	left    int64
	entries int
}

// dataWriter writes data frames.
type dataWriter struct{ w io.Writer }

func (d dataWriter) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := min(len(p)-done, maxFrame)
		if err := writeFrame(d.w, frameData, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

// pack packs a file, or what is in a directory. Symbolic links on the way are
// followed; those inside are packed as links. Devices, pipes and sockets are left
// out. A disk is larger than it looks where another partition is mounted: such a
// directory is packed as the root's partition has it.
func pack(out io.Writer, d *volume.Disk, name string, maxBytes int64) error {
	v, inside := d.Locate(path.Clean(name))
	ino, clean, err := v.FS.Resolve(inside, true)
	if err != nil {
		return fmt.Errorf("%s: %w", change.Escape(name), within(err))
	}
	if !ino.IsDir() && !ino.IsRegular() {
		return fmt.Errorf("%s: %w: it is a %s", change.Escape(name), ErrUnsupported, ino.Type())
	}
	h := Header{Dir: ino.IsDir(), Mode: uint32(ino.Mode & 0o777)}
	if !h.Dir {
		h.Size = ino.Size
	}
	if err := writeFrame(out, frameHeader, marshal(h)); err != nil {
		return err
	}
	p := &packer{fs: v.FS, tar: tar.NewWriter(dataWriter{out}), left: maxBytes}
	if h.Dir {
		err = p.dir(".", ino, nil)
	} else {
		err = p.entry(path.Base(clean), ino)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", change.Escape(name), err)
	}
	return p.tar.Close()
}

// within leaves out the path that an error repeats.
func within(err error) error {
	for _, kind := range []error{ext4.ErrNotExist, ext4.ErrNotDir} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	return err
}

func (p *packer) dir(name string, ino *ext4.Inode, above []uint32) error {
	if len(above) >= maxPackDepth {
		return fmt.Errorf("%q: %w: it lies deeper than %d directories", name, ErrTooLarge, maxPackDepth)
	}
	for _, n := range above {
		if n == ino.Number {
			return fmt.Errorf("%q: %w: it contains itself", name, ErrCorrupt)
		}
	}
	if err := p.entry(name+"/", ino); err != nil {
		return err
	}
	list, err := p.fs.ReadDir(ino)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	above = append(above, ino.Number)
	for _, e := range list {
		child, err := p.fs.Inode(e.Inode)
		if err != nil {
			return fmt.Errorf("%q: %w", name+"/"+e.Name, err)
		}
		if child.IsDir() {
			err = p.dir(name+"/"+e.Name, child, above)
		} else {
			err = p.entry(name+"/"+e.Name, child)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// entry packs one file, or a directory without its contents.
func (p *packer) entry(name string, ino *ext4.Inode) error {
	if p.entries++; p.entries > maxPackEntries {
		return fmt.Errorf("%w: there are more than %d files", ErrTooLarge, maxPackEntries)
	}
	h := &tar.Header{
		Name: name, Mode: int64(ino.Perm()), Uid: int(ino.UID), Gid: int(ino.GID),
		ModTime: ino.ModTime.Truncate(time.Second), Format: tar.FormatPAX,
	}
	switch {
	case ino.IsDir():
		h.Typeflag = tar.TypeDir
		return p.tar.WriteHeader(h)
	case ino.IsSymlink():
		target, err := p.fs.Readlink(ino)
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		if strings.IndexByte(target, 0) >= 0 { // which no archive can hold
			return fmt.Errorf("%q: %w: its target has a zero byte", name, ErrCorrupt)
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
		return p.tar.WriteHeader(h)
	case !ino.IsRegular():
		return nil
	}
	h.Typeflag, h.Size = tar.TypeReg, ino.Size
	if p.left -= ino.Size; p.left < 0 {
		return fmt.Errorf("%w: the files are larger than the limit together", ErrTooLarge)
	}
	f, err := p.fs.OpenFile(ino)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	if _, err := io.CopyBuffer(onlyWriter{p.tar}, io.NewSectionReader(f, 0, f.Size()), make([]byte, maxFrame)); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	return nil
}

// onlyWriter hides what else a writer can do, so that the buffer is used.
type onlyWriter struct{ io.Writer }
