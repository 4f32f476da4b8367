package virtualbox

import (
	"os"

	"golang.org/x/sys/unix"
)

// punchHole frees the space of the first bytes of a file, which read as zeros
// then. length is a multiple of the file system's blocks.
func punchHole(f *os.File, length int64) error {
	// The kernel reads a struct fpunchhole, the first 24 bytes of which are laid
	// out as a struct fstore: 8 bytes that are zero, offset, length.
	return unix.FcntlFstore(f.Fd(), unix.F_PUNCHHOLE, &unix.Fstore_t{Offset: 0, Length: length})
}
