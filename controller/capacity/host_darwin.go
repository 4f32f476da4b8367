package capacity

import "golang.org/x/sys/unix"

func memorySize() (int64, error) {
	bytes, err := unix.SysctlUint64("hw.memsize")
	return int64(bytes), err //nolint:gosec // a size of memory
}
