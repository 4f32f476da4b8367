package worker

import (
	"slices"

	"sandboxd.dev/sandboxd/disk/change"
)

var (
	fileTypes = []string{"file", "directory", "symlink", "character-device", "block-device", "fifo", "socket", "unknown"}
	aspects   = []change.Aspect{
		change.Type, change.Mode, change.Owner, change.Size, change.Content, change.Target, change.Device, change.Xattrs, change.MTime,
	}
	ops = []change.Op{change.Added, change.Removed, change.Changed, change.Touched}
)

// parseLine reads a line of a comparison, and makes sure that it says nothing that
// one may not say.
func parseLine(raw []byte) (change.Line, error) {
	var l change.Line
	if err := decode(raw, &l); err != nil {
		return l, errUnexpected
	}
	ok := (l.Change == nil) != (l.Note == nil)
	if l.Note != nil {
		l.Note.Message = change.Escape(l.Note.Message)
	}
	if c := l.Change; c != nil {
		ok = ok && slices.Contains(ops, c.Op) && change.Clean(c.Path) && c.Path != "" && c.Partition >= 0 && validFile(c.From) && validFile(c.To) &&
			(c.From == nil) == (c.Op == change.Added) && (c.To == nil) == (c.Op == change.Removed)
		for _, a := range c.What {
			ok = ok && slices.Contains(aspects, a)
		}
	}
	if !ok {
		return change.Line{}, errUnexpected
	}
	return l, nil
}

func validFile(f *change.File) bool {
	return f == nil || slices.Contains(fileTypes, f.Type) && f.Size >= 0 && change.Clean(f.Target) &&
		change.Escape(f.Mode+f.MTime+f.Device) == f.Mode+f.MTime+f.Device
}
