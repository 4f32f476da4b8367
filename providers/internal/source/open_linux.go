package source

import (
	"os"

	"golang.org/x/sys/unix"
)

// openNoSymlinks opens a file to read it, unless a part of its path is a
// symbolic link (ELOOP). A FIFO does not block it.
func openNoSymlinks(path string) (fd int, err error) {
	return unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// clone makes an empty file share the content of another, where both are on one
// file system that can.
func clone(dst, src *os.File) bool {
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil
}
