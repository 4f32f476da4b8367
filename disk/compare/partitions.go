package compare

import (
	"slices"

	"sandboxd.dev/sandboxd/disk/change"
	"sandboxd.dev/sandboxd/disk/ext4"
	"sandboxd.dev/sandboxd/disk/volume"
)

// couple is what one partition was and is; either may be nil.
type couple struct{ from, to *volume.Volume }

// pair pairs the partitions of both disks: the roots, and the others by number.
func pair(from, to *volume.Disk) []couple {
	list := []couple{{from.Root(), to.Root()}}
	rest := slices.DeleteFunc(slices.Clone(to.Volumes), func(v *volume.Volume) bool { return v == to.Root() })
	for _, v := range from.Volumes {
		if v == from.Root() {
			continue
		}
		i := slices.IndexFunc(rest, func(w *volume.Volume) bool { return w.Number == v.Number })
		if i < 0 {
			list = append(list, couple{v, nil})
			continue
		}
		list = append(list, couple{v, rest[i]})
		rest = slices.Delete(rest, i, i+1)
	}
	for _, v := range rest {
		list = append(list, couple{nil, v})
	}
	return list
}

// partition compares one partition.
func (d *differ) partition(c couple) error {
	from, to := c.side(d.from, c.from), c.side(d.to, c.to)
	if from == nil && to == nil {
		return d.opaque(c)
	}
	if c.from != nil && c.to != nil && (c.from.FS == nil) != (c.to.FS == nil) {
		d.note(false, "%s holds another kind of file system than before", c.to.Name())
	}
	named := c.to
	if named == nil || named.Mount == "" && c.from != nil {
		named = c.from
	}
	d.mount, d.number = named.Mount, 0
	if d.mount == "" {
		d.number = named.Number
	}
	if d.mount == "/" {
		d.mount = ""
	}
	for _, s := range []*side{from, to} {
		if s == nil {
			continue
		}
		var err error
		if s.ino, err = s.fs().Inode(ext4.RootInode); err != nil {
			return err
		}
		if !s.ino.IsDir() {
			return ext4.ErrCorrupt
		}
	}
	return d.compare("", from, to)
}

func (c couple) side(disk *volume.Disk, v *volume.Volume) *side {
	if v == nil || v.FS == nil {
		return nil
	}
	return &side{disk: disk, vol: v}
}

// opaque compares a partition that is not read as a whole.
func (d *differ) opaque(c couple) error {
	switch {
	case c.from == nil:
		d.note(true, "%s is new, and what it holds is not read", c.to.Name())
	case c.to == nil:
		d.note(true, "%s is gone; what it held is not read", c.from.Name())
	default:
		same, err := d.sameVolume(c)
		if err != nil {
			return err
		}
		kind := c.to.Kind
		if kind == "" {
			kind = "nothing that is known"
		}
		if !same {
			d.note(kind != "swap", "%s holds %s, which is not read; it has changed", c.to.Name(), kind)
		}
	}
	return d.stop()
}

func (d *differ) sameVolume(c couple) (bool, error) {
	if c.from.Size != c.to.Size {
		return false, nil
	}
	if c.from.Start == c.to.Start {
		return d.sameRange(c.from.Start, c.from.Size)
	}
	return d.equalBytes(
		func(p []byte, off int64) error { return readAll(d.from, p, c.from.Start+off) },
		func(p []byte, off int64) error { return readAll(d.to, p, c.to.Start+off) }, c.from.Size)
}

// path is how a path of the partition is told.
func (d *differ) path(name string) string {
	if name == "" {
		name = "/"
		if d.mount != "" {
			name = ""
		}
	}
	return change.Escape(d.mount + name)
}
