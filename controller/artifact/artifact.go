// Package artifact writes what is copied out of a sandbox to a directory of the host.
//
//	directory ─▶ opened, no symlink on the way ─▶ .NAME.part ─▶ fsync ─▶ NAME
//
// The directory may belong to somebody who changes it meanwhile: it is opened once,
// step by step, and everything else happens in what was opened. A file that is there
// is replaced as a whole or not at all. What an earlier run left unfinished is
// removed by the next.
package artifact

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrTooLarge: there is more to write than is allowed.
var ErrTooLarge = errors.New("too large")

// File is one that was written.
type File struct {
	Size int64
	// Digest of its content, as sha256:HEX.
	Digest string
}

// Write writes a file of at most max bytes into a directory, whose path is absolute
// and has no symlinks.
func Write(dir, name string, max int64, fill func(io.Writer) error) (File, error) {
	d, err := openDir(dir)
	if err != nil {
		return File{}, fmt.Errorf("%s: it cannot be opened: %w", dir, err)
	}
	defer func() { _ = unix.Close(d) }()
	part := "." + name + ".part"
	if err := unix.Unlinkat(d, part, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return File{}, fmt.Errorf("%s/%s: it is in the way: %w", dir, part, err)
	}
	fd, err := unix.Openat(d, part, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return File{}, fmt.Errorf("%s/%s: it cannot be made: %w", dir, part, err)
	}
	f := os.NewFile(uintptr(fd), part)
	result, err := write(d, f, max, fill)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = unix.Renameat(d, part, d, name)
	}
	if err != nil {
		_ = unix.Unlinkat(d, part, 0)
		return File{}, err
	}
	return result, unix.Fsync(d)
}

func write(dir int, f *os.File, max int64, fill func(io.Writer) error) (File, error) {
	own(dir, f)
	sum := sha256.New()
	bounded := &limited{w: io.MultiWriter(f, sum), left: max}
	if err := fill(bounded); err != nil {
		return File{}, err
	}
	return File{Size: max - bounded.left, Digest: "sha256:" + hex.EncodeToString(sum.Sum(nil))}, f.Sync()
}

// own gives the file to whom the directory belongs, if this process may: to nobody
// else it is readable.
func own(dir int, f *os.File) {
	var st unix.Stat_t
	if unix.Fstat(dir, &st) == nil {
		_ = f.Chown(int(st.Uid), int(st.Gid))
	}
}

// openDir opens a directory; no element of its path is a symlink.
func openDir(path string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Open("/", flags, 0)
	if err != nil {
		return -1, err
	}
	for element := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if element == "" {
			continue
		}
		next, err := unix.Openat(fd, element, flags, 0)
		_ = unix.Close(fd)
		if err != nil {
			return -1, err
		}
		fd = next
	}
	return fd, nil
}

// limited takes so many bytes, and no more.
type limited struct {
	w    io.Writer
	left int64
}

func (l *limited) Write(p []byte) (int, error) {
	if int64(len(p)) > l.left {
		return 0, ErrTooLarge
	}
	n, err := l.w.Write(p)
	l.left -= int64(n)
	return n, err
}
