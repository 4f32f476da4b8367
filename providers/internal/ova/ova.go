// Package ova finds the one disk in an OVA: a tar archive of a machine's
// description (OVF, which is XML) and its files.
//
//	tar ──list, strictly──▶ members ──the .ovf──▶ name of the disk ──▶ its place in the archive
//
// An OVA comes from anywhere. Nothing of it is unpacked here but the description,
// into memory, within bounds: the caller reads the disk from where it lies in the
// archive, so that no member's name ever becomes a path.
package ova

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrInvalid: the archive is damaged or not one that is taken. Every error of
// this package is of this kind.
var ErrInvalid = errors.New("not an OVA that can be taken")

// Bounds.
const (
	maxMembers     = 128
	maxName        = 255
	maxDescription = 4 << 20 // bytes of the .ovf
)

// Disk is where the disk lies in the archive.
type Disk struct {
	Name         string
	Offset, Size int64
}

// Is tells whether a file begins as a tar archive does.
func Is(r io.ReaderAt) bool {
	magic := make([]byte, 5)
	_, err := r.ReadAt(magic, 257)
	return err == nil && string(magic) == "ustar"
}

// Find returns the archive's one disk, which has at most limit bytes.
func Find(r io.ReaderAt, size, limit int64) (Disk, error) {
	members, description, err := list(r, size, limit)
	if err != nil {
		return Disk{}, err
	}
	if description == nil {
		return Disk{}, invalid("it has no .ovf: a tar archive that is no OVA")
	}
	name, err := diskOf(description)
	if err != nil {
		return Disk{}, err
	}
	m, ok := members[name]
	if !ok {
		return Disk{}, invalid("its .ovf names the disk %q, which is not in the archive", name)
	}
	if m.Size == 0 {
		return Disk{}, invalid("its disk %q is empty", name)
	}
	return m, nil
}

// list reads the heads of all members, and the one description.
func list(r io.ReaderAt, size, limit int64) (members map[string]Disk, description []byte, err error) {
	section := io.NewSectionReader(r, 0, size)
	archive := tar.NewReader(section)
	members = map[string]Disk{}
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return members, description, nil
		}
		if err != nil {
			return nil, nil, invalid("the archive is damaged or cut off: %v", err)
		}
		name, err := memberName(h)
		if err != nil {
			return nil, nil, err
		}
		at, err := section.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, nil, err
		}
		switch _, twice := members[name]; {
		case twice:
			return nil, nil, invalid("it has two members called %q", name)
		case len(members) == maxMembers:
			return nil, nil, invalid("it has more than %d members", maxMembers)
		case h.Size > limit:
			return nil, nil, invalid("its member %q of %d bytes is larger than the limit of %d", name, h.Size, limit)
		case h.Size > size-at:
			return nil, nil, invalid("the archive is cut off within its member %q", name)
		}
		members[name] = Disk{Name: name, Offset: at, Size: h.Size}
		if !strings.EqualFold(path.Ext(name), ".ovf") {
			continue
		}
		switch {
		case description != nil:
			return nil, nil, invalid("it has more than one .ovf")
		case h.Size == 0 || h.Size > maxDescription:
			return nil, nil, invalid("its .ovf has %d bytes, which is none or more than %d", h.Size, maxDescription)
		}
		if description, err = io.ReadAll(io.LimitReader(archive, maxDescription)); err != nil {
			return nil, nil, invalid("its .ovf cannot be read: %v", err)
		}
	}
}

// memberName refuses what a member of an OVA never is.
func memberName(h *tar.Header) (string, error) {
	name := strings.TrimPrefix(h.Name, "./")
	switch {
	case h.Typeflag != tar.TypeReg:
		return "", invalid("its member %q is a link, a folder or a device, and not a file", h.Name)
	case sparse(h):
		return "", invalid("its member %q is kept sparsely", h.Name)
	case !plain(name):
		return "", invalid("its member %q is not a plain file name", h.Name)
	}
	return name, nil
}

func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// plain tells whether a name is that of a file beside the description, and
// leads nowhere else on any system.
func plain(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= maxName && utf8.ValidString(name) &&
		!strings.ContainsAny(name, `/\:`) && !strings.ContainsFunc(name, unicode.IsControl)
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
