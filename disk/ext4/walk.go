package ext4

import (
	"fmt"
	"path"
	"strings"
)

// maxLinks bounds the symbolic links that one path leads over.
const maxLinks = 40

// Lookup finds a name in a directory.
func (fs *FS) Lookup(dir *Inode, name string) (*Inode, error) {
	list, err := fs.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		if e.Name == name {
			return fs.Inode(e.Inode)
		}
	}
	return nil, ErrNotExist
}

// Resolve follows a path from the root, over symbolic links, also the last one if
// follow is set. It returns the file and its path without links.
func (fs *FS) Resolve(name string, follow bool) (*Inode, string, error) {
	root, err := fs.Inode(RootInode)
	if err != nil {
		return nil, "", err
	}
	type step struct {
		ino  *Inode
		name string
	}
	stack := []step{{root, ""}}
	rest := split(name)
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		if part == ".." {
			stack = stack[:max(1, len(stack)-1)]
			continue
		}
		child, err := fs.Lookup(stack[len(stack)-1].ino, part)
		if err != nil {
			return nil, "", fmt.Errorf("%q: %w", name, err)
		}
		if !child.IsSymlink() || len(rest) == 0 && !follow {
			stack = append(stack, step{child, part})
			continue
		}
		target, err := fs.Readlink(child)
		if err != nil {
			return nil, "", err
		}
		if links++; links > maxLinks {
			return nil, "", fmt.Errorf("%q: %w: it leads over too many links", name, ErrNotExist)
		}
		if path.IsAbs(target) {
			stack = stack[:1]
		}
		rest = append(split(target), rest...)
	}
	clean := ""
	for _, s := range stack[1:] {
		clean += "/" + s.name
	}
	if clean == "" {
		clean = "/"
	}
	return stack[len(stack)-1].ino, clean, nil
}

// split is the elements of a path but for those that mean nothing.
func split(name string) []string {
	var list []string
	for part := range strings.SplitSeq(name, "/") {
		if part != "" && part != "." {
			list = append(list, part)
		}
	}
	return list
}
