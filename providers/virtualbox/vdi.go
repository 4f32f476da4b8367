package virtualbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
)

// vdi is what the header of a VDI file says of it. VirtualBox refuses a file whose
// header does not fit what it remembers, so that the headers are asked, which costs
// no process.
type vdi struct {
	path string
	// id is the medium's UUID, parent that of the one it lies on; empty for none.
	id, parent string
	// size of the disk as a guest sees it, in bytes.
	size int64
}

// Of version 1.1 of the format, which VirtualBox has written since 2007.
const (
	vdiSignature = 0xbeda107f
	vdiMajor     = 1
	vdiHeader    = 512
)

// readVDI reads the header of a VDI file.
func readVDI(path string) (vdi, error) {
	f, err := os.Open(path)
	if err != nil {
		return vdi{}, err
	}
	defer func() { _ = f.Close() }()
	var b [vdiHeader]byte
	if _, err := io.ReadFull(f, b[:]); err != nil {
		return vdi{}, fmt.Errorf("%s: its header: %w", path, err)
	}
	return parseVDI(path, b)
}

func parseVDI(path string, b [vdiHeader]byte) (vdi, error) {
	if binary.LittleEndian.Uint32(b[0x40:]) != vdiSignature || binary.LittleEndian.Uint16(b[0x46:]) != vdiMajor {
		return vdi{}, fmt.Errorf("%s is no disk of VirtualBox's own format, of version %d", path, vdiMajor)
	}
	size := binary.LittleEndian.Uint64(b[0x170:])
	if size > 1<<62 {
		return vdi{}, fmt.Errorf("%s says that it has %d bytes", path, size)
	}
	return vdi{path: path, id: mixedUUID(b[0x188:]), parent: mixedUUID(b[0x1a8:]), size: int64(size)}, nil
}

// mixedUUID reads a UUID whose first three numbers are little-endian; empty when it
// is zero.
func mixedUUID(b []byte) string {
	var u uuid.UUID
	for to, from := range [16]int{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15} {
		u[to] = b[from]
	}
	if u == uuid.Nil {
		return ""
	}
	return u.String()
}

// hostRefused tells whether a header was not read for a reason that says nothing of
// the file, such as too many open ones.
func hostRefused(err error) bool {
	var refused *fs.PathError
	return errors.As(err, &refused) && !errors.Is(err, fs.ErrNotExist)
}

// vdisIn reads the headers of all VDI files in a folder, by their UUID. What has none,
// such as one that is being made, is left out. One that cannot be read just now is an
// error: what it lies on must not be taken for unused.
func vdisIn(dir string) (map[string]vdi, error) {
	all := map[string]vdi{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case os.IsNotExist(err):
			return nil
		case err != nil:
			return err
		case !entry.Type().IsRegular() || !strings.EqualFold(filepath.Ext(path), ".vdi"):
			return nil
		}
		v, err := readVDI(path)
		switch {
		case hostRefused(err):
			return err
		case err == nil && v.id != "":
			all[v.id] = v
		}
		return nil
	})
	return all, err
}
