package guest

import (
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Info describes a file.
type Info struct {
	Size   int64
	Mode   uint32
	Dir    bool
	Device bool
}

// filesystem is what can be mounted. Paths are absolute and clean, seen from
// its own root. Errors are syscall.Errno, as a kernel gives them.
type filesystem interface {
	stat(name string) (Info, error)
	read(name string) ([]byte, error)
	// write replaces a file as a whole, with mode or keepMode.
	write(name string, mode uint32, data []byte) error
	extend(name string, data []byte) error
	mkdir(name string) error
	remove(name string) error
	chmod(name string, mode uint32) error
	list(name string) ([]string, error)
}

// Permission bits of new files and directories.
const (
	fileMode = 0o644
	dirMode  = 0o755
)

// keepMode leaves the mode of a file as it is, and is fileMode for a new one.
const keepMode uint32 = 1 << 31

// tree is a file system in memory, on a disk or not.
type tree struct {
	mu    sync.RWMutex
	nodes map[string]node
	used  int64
	limit int64
}

// node is a file or a directory. Its data is never changed in place, so that
// readers need no lock.
type node struct {
	dir  bool
	mode uint32
	data []byte
}

// newTree makes a file system of at most limit bytes with the given
// directories, parents first.
func newTree(limit int64, dirs ...string) *tree {
	t := &tree{limit: limit, nodes: map[string]node{"/": {dir: true, mode: dirMode}}}
	for _, d := range dirs {
		t.nodes[d] = node{dir: true, mode: dirMode}
	}
	return t
}

func (t *tree) setLimit(limit int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limit = limit
}

func (t *tree) stat(name string) (Info, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n, err := t.lookup(name)
	return Info{Size: int64(len(n.data)), Mode: n.mode, Dir: n.dir}, err
}

// lookup needs the lock.
func (t *tree) lookup(name string) (node, error) {
	if n, ok := t.nodes[name]; ok {
		return n, nil
	}
	if name == "/" {
		return node{}, syscall.ENOENT
	}
	if parent, err := t.lookup(path.Dir(name)); err != nil {
		return node{}, err
	} else if !parent.dir {
		return node{}, syscall.ENOTDIR
	}
	return node{}, syscall.ENOENT
}

func (t *tree) read(name string) ([]byte, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n, err := t.lookup(name)
	if err != nil {
		return nil, err
	}
	if n.dir {
		return nil, syscall.EISDIR
	}
	return n.data, nil
}

func (t *tree) write(name string, mode uint32, data []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.put(name, mode, data)
}

func (t *tree) extend(name string, data []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.nodes[name]
	// Appending may write behind the end of what readers hold, never into it.
	return t.put(name, keepMode, append(old.data, data...))
}

// put needs the lock.
func (t *tree) put(name string, mode uint32, data []byte) error {
	old, err := t.lookup(name)
	switch {
	case err == nil && old.dir:
		return syscall.EISDIR
	case err == nil && mode == keepMode:
		mode = old.mode
	case err != nil:
		if parent, perr := t.lookup(path.Dir(name)); perr != nil {
			return perr
		} else if !parent.dir {
			return syscall.ENOTDIR
		}
		if mode == keepMode {
			mode = fileMode
		}
	}
	used := t.used + int64(len(data)) - int64(len(old.data))
	if used > t.limit {
		return syscall.ENOSPC
	}
	t.used = used
	t.nodes[name] = node{mode: mode, data: data}
	return nil
}

func (t *tree) mkdir(name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.nodes[name]; ok {
		return syscall.EEXIST
	}
	if parent, err := t.lookup(path.Dir(name)); err != nil {
		return err
	} else if !parent.dir {
		return syscall.ENOTDIR
	}
	t.nodes[name] = node{dir: true, mode: dirMode}
	return nil
}

// remove removes a file, or a directory with all that is in it.
func (t *tree) remove(name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, err := t.lookup(name); err != nil {
		return err
	}
	if name == "/" {
		return syscall.EBUSY
	}
	for p, n := range t.nodes {
		if p == name || strings.HasPrefix(p, name+"/") {
			t.used -= int64(len(n.data))
			delete(t.nodes, p)
		}
	}
	return nil
}

func (t *tree) chmod(name string, mode uint32) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.lookup(name)
	if err != nil {
		return err
	}
	n.mode = mode
	t.nodes[name] = n
	return nil
}

func (t *tree) list(name string) ([]string, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n, err := t.lookup(name)
	if err != nil {
		return nil, err
	}
	if !n.dir {
		return nil, syscall.ENOTDIR
	}
	var names []string
	for p := range t.nodes {
		if p != "/" && path.Dir(p) == name {
			names = append(names, path.Base(p))
		}
	}
	slices.Sort(names)
	return names, nil
}

// clone makes another tree of the same content.
func (t *tree) clone() *tree {
	t.mu.RLock()
	defer t.mu.RUnlock()
	c := &tree{nodes: make(map[string]node, len(t.nodes)), used: t.used, limit: t.limit}
	for name, n := range t.nodes {
		n.data = slices.Clip(n.data) // or both would append to the same bytes
		c.nodes[name] = n
	}
	return c
}

func (t *tree) size() int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.used
}

// all lists everything below the root, parents first.
func (t *tree) all() []File {
	t.mu.RLock()
	defer t.mu.RUnlock()
	files := make([]File, 0, len(t.nodes))
	for _, name := range sortedKeys(t.nodes) {
		if n := t.nodes[name]; name != "/" {
			info := Info{Size: int64(len(n.data)), Mode: n.mode, Dir: n.dir}
			files = append(files, File{Path: name, Info: info, Data: n.data})
		}
	}
	return files
}
