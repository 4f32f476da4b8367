package bolt

import "golang.org/x/sys/unix"

// unmapPages lets the kernel forget that a part of a mapped file is in use.
func unmapPages(start, length uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, start, length, unix.MADV_DONTNEED); errno != 0 {
		return errno
	}
	return nil
}
