// Package compare finds the files in which two states of a guest's disk differ.
//
//	partition ─▶ both trees are walked side by side, in the order of names
//	                 │ in one only ─▶ added, removed, with all that is below
//	                 │ in both ─▶ inodes compared ─▶ contents compared
//
// Contents are compared byte by byte, with a shortcut: where both files have the same
// block of the disk, and both disks have that block from the same layer, nothing is
// read. Nothing of the trees is kept in memory but the directories on the way.
package compare

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sandboxd.dev/sandboxd/disk/change"
	"sandboxd.dev/sandboxd/disk/ext4"
	"sandboxd.dev/sandboxd/disk/volume"
)

const (
	// maxDepth bounds how deep directories lie in one another, and maxPath the
	// length of a path, in bytes.
	maxDepth = 512
	maxPath  = 4096
	// maxFiles bounds the files of one state that are looked at.
	maxFiles = 1 << 24
	// maxNotes bounds the notes of what could not be compared.
	maxNotes = 100
)

// ErrTooLarge: there are more files than are compared.
var ErrTooLarge = errors.New("too large")

// Options of Diff.
type Options struct {
	// Touched reports files of which only the time of the last change differs.
	Touched bool
}

// Diff tells emit all differences, in the order of paths for each partition. An
// error of emit ends it.
func Diff(ctx context.Context, from, to *volume.Disk, o Options, emit func(change.Line) error) error {
	d := &differ{ctx: ctx, o: o, from: from, to: to, emit: emit}
	d.journals("before", from)
	d.journals("after", to)
	for _, p := range pair(from, to) {
		if err := d.partition(p); err != nil {
			return err
		}
	}
	return d.failed
}

type differ struct {
	ctx      context.Context
	o        Options
	from, to *volume.Disk
	emit     func(change.Line) error
	failed   error // of emit
	notes    int
	files    int
	// What the partition is that is being compared.
	mount  string
	number int
}

// journals tells what journals were not, or not wholly, replayed.
func (d *differ) journals(when string, disk *volume.Disk) {
	for _, v := range disk.Volumes {
		if v.FS == nil {
			continue
		}
		if j := v.FS.Journal; j.Missing != "" {
			d.note(true, "%s (%s): %s", v.Name(), when, j.Missing)
		}
	}
}

// side is a directory or file of one of the states; nil where there is none.
type side struct {
	disk *volume.Disk
	vol  *volume.Volume
	ino  *ext4.Inode
	// above are the inodes of the directories on the way, against circles.
	above []uint32
}

func (s *side) fs() *ext4.FS { return s.vol.FS }

// note tells of something that is not a difference.
func (d *differ) note(incomplete bool, format string, args ...any) {
	if d.notes++; d.notes > maxNotes {
		return
	}
	d.send(change.Line{Note: &change.Note{Message: fmt.Sprintf(format, args...), Incomplete: incomplete}})
}

func (d *differ) send(l change.Line) {
	if d.failed == nil {
		d.failed = d.emit(l)
	}
}

// stop tells whether the comparison has to end.
func (d *differ) stop() error {
	if d.failed != nil {
		return d.failed
	}
	return d.ctx.Err()
}

// describe describes one of the states of a file.
func (d *differ) describe(s *side) *change.File {
	i := s.ino
	f := &change.File{
		Type: i.Type(), Mode: fmt.Sprintf("%04o", i.Perm()), UID: i.UID, GID: i.GID, MTime: i.ModTime.Format(time.RFC3339Nano),
	}
	switch {
	case i.IsRegular():
		f.Size = i.Size
	case i.IsSymlink():
		f.Size = i.Size
		if target, err := s.fs().Readlink(i); err == nil {
			f.Target = change.Escape(target)
		}
	case i.IsDevice():
		f.Device = fmt.Sprintf("%d:%d", i.Major, i.Minor)
	}
	return f
}
