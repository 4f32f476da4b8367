package virtualbox

import (
	"os"

	"golang.org/x/sys/unix"
)

// punchHole frees the space of the first bytes of a file, which read as zeros
// then. length is a multiple of the file system's blocks.
func punchHole(f *os.File, length int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, length)
}
