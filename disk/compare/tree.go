package compare

import (
	"fmt"
	"slices"

	"sandboxd.dev/sandboxd/disk/change"
	"sandboxd.dev/sandboxd/disk/ext4"
)

// compare compares a file, and all that is below it when it is a directory. One of
// the sides may be nil.
func (d *differ) compare(name string, from, to *side) error {
	if err := d.stop(); err != nil {
		return err
	}
	if d.files++; d.files > maxFiles {
		return fmt.Errorf("%w: there are more than %d files", ErrTooLarge, maxFiles)
	}
	c, err := d.change(from, to)
	if err != nil {
		d.note(true, "%s cannot be compared: %v", d.path(name), err)
	}
	if c != nil {
		c.Path, c.Partition = d.path(name), d.number
		d.send(change.Line{Change: c})
	}
	if isDir(from) || isDir(to) {
		return d.directory(name, from, to)
	}
	return d.stop()
}

func isDir(s *side) bool { return s != nil && s.ino.IsDir() }

// directory walks two directories side by side. What is no directory has no entries.
func (d *differ) directory(name string, from, to *side) error {
	a, err := d.entries(name, from)
	if err != nil {
		return nil // and told
	}
	b, err := d.entries(name, to)
	if err != nil {
		return nil
	}
	for len(a) > 0 || len(b) > 0 {
		var x, y *side
		var child string
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Name < b[0].Name:
			child, x, a = a[0].Name, d.child(name, from, a[0]), a[1:]
		case len(a) == 0 || b[0].Name < a[0].Name:
			child, y, b = b[0].Name, d.child(name, to, b[0]), b[1:]
		default:
			child, x, y, a, b = a[0].Name, d.child(name, from, a[0]), d.child(name, to, b[0]), a[1:], b[1:]
			if x == nil || y == nil {
				continue // told; half a comparison would show a change that is none
			}
		}
		if x == nil && y == nil {
			continue
		}
		if err := d.compare(name+"/"+child, x, y); err != nil {
			return err
		}
	}
	return nil
}

// entries reads a directory.
func (d *differ) entries(name string, s *side) ([]ext4.Entry, error) {
	if !isDir(s) {
		return nil, nil
	}
	var err error
	switch {
	case len(s.above) >= maxDepth || len(name) > maxPath:
		err = fmt.Errorf("it lies too deep")
	case slices.Contains(s.above, s.ino.Number):
		err = fmt.Errorf("it contains itself")
	default:
		var list []ext4.Entry
		if list, err = s.fs().ReadDir(s.ino); err == nil {
			return list, nil
		}
	}
	d.note(true, "%s cannot be compared: %v", d.path(name), err)
	return nil, err
}

// child is a file of a directory; nil when it cannot be read, which is told.
func (d *differ) child(name string, dir *side, e ext4.Entry) *side {
	ino, err := dir.fs().Inode(e.Inode)
	if err != nil {
		d.note(true, "%s cannot be compared: %v", d.path(name+"/"+e.Name), err)
		return nil
	}
	s := &side{disk: dir.disk, vol: dir.vol, ino: ino}
	if ino.IsDir() {
		s.above = append(slices.Clip(dir.above), dir.ino.Number)
	}
	return s
}

// change compares one file; nil when it is the same.
func (d *differ) change(from, to *side) (*change.Change, error) {
	switch {
	case from == nil:
		return &change.Change{Op: change.Added, To: d.describe(to)}, nil
	case to == nil:
		return &change.Change{Op: change.Removed, From: d.describe(from)}, nil
	}
	what, err := d.what(from, to)
	if len(what) == 0 {
		return nil, err
	}
	c := &change.Change{Op: change.Changed, What: what, From: d.describe(from), To: d.describe(to)}
	if len(what) == 1 && what[0] == change.MTime {
		if c.Op = change.Touched; !d.o.Touched {
			return nil, err
		}
	}
	return c, err
}

// what tells in which aspects a file differs. With an error it tells as many as it
// could find out.
func (d *differ) what(from, to *side) (what []change.Aspect, err error) {
	a, b := from.ino, to.ino
	differs := func(aspect change.Aspect, is bool) {
		if is {
			what = append(what, aspect)
		}
	}
	sameType := a.Type() == b.Type()
	differs(change.Type, !sameType)
	differs(change.Mode, a.Perm() != b.Perm())
	differs(change.Owner, a.UID != b.UID || a.GID != b.GID)
	if sameType {
		switch {
		case a.IsRegular():
			differs(change.Size, a.Size != b.Size)
			same := false
			if a.Size == b.Size {
				same, err = d.sameContent(from, to)
			}
			differs(change.Content, !same && err == nil)
		case a.IsSymlink():
			var x, y string
			if x, err = from.fs().Readlink(a); err == nil {
				y, err = to.fs().Readlink(b)
			}
			differs(change.Target, err == nil && x != y)
		case a.IsDevice():
			differs(change.Device, a.Major != b.Major || a.Minor != b.Minor)
		}
	}
	same, xerr := sameXattrs(from, to)
	differs(change.Xattrs, !same && xerr == nil)
	differs(change.MTime, !a.ModTime.Equal(b.ModTime))
	if err == nil {
		err = xerr
	}
	return what, err
}

// sameXattrs compares the extended attributes, but for the one that holds content.
func sameXattrs(from, to *side) (bool, error) {
	a, err := attributes(from)
	if err != nil {
		return false, err
	}
	b, err := attributes(to)
	return slices.Equal(a, b), err
}

func attributes(s *side) ([]ext4.Xattr, error) {
	list, err := s.fs().Xattrs(s.ino)
	list = slices.DeleteFunc(list, ext4.Xattr.IsContent)
	slices.SortFunc(list, ext4.Xattr.Compare)
	return list, err
}
