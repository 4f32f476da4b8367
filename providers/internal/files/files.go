// Package files does with files what providers need so that nothing is lost or
// half done: a file is replaced as a whole and is on disk when that is said, and
// what goes wrong has a provider's kind.
//
//	Write: .NAME-*  ──write, sync──▶  rename to NAME  ──▶  sync of the folder
package files

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"sandboxd.dev/sandboxd/providers"
)

// Write replaces a file as a whole, on disk when it returns.
func Write(path string, data []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir brings a folder's entries to disk.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Sync brings a file's content to disk.
func Sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Mkdir makes a folder, or sets the mode of the one that is there, whatever the
// umask.
func Mkdir(path string, mode os.FileMode) error {
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Chmod(path, mode)
}

// Exists tells whether something has that path.
func Exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Allocated is the space that a file takes, in bytes.
func Allocated(info os.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}

// Free is what unprivileged users could still write below a folder, in bytes.
func Free(dir string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0
	}
	return int64(st.Bavail) * int64(st.Bsize)
}

// Error gives an error of the files below root a kind. Errors that have one, and
// a context's, are passed on.
func Error(object, root string, err error) error {
	switch {
	case err == nil || providers.KindOf(err) != nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return providers.Errorf(providers.ErrCapacity, object, "no space is left in %s: make room there: %w", root, err)
	case errors.Is(err, fs.ErrPermission):
		return providers.Errorf(providers.ErrUnavailable, object, "sandboxd may not use its data folder: %w; run it as root", err)
	default:
		return providers.Errorf(providers.ErrUnavailable, object, "%w", err)
	}
}
