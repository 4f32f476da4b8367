package guest

import (
	"bytes"
	"encoding/binary"
	"io"
	"maps"
	"slices"
	"sync"
)

// Disk is what a computer keeps while it is off.
type Disk struct {
	files *tree
	size  int64

	mu sync.Mutex
	// seeded is the instance ID that the guest was set up for.
	seeded string
	// boots counts the starts from this disk and from all its clones, so that no
	// two of them are taken for one.
	boots *counter
	users map[string]user
}

type user struct {
	id   int
	home string
}

// NewDisk makes a freshly installed disk of a size in bytes.
func NewDisk(size int64) *Disk {
	return &Disk{
		files: newTree(size,
			"/bin", "/dev", "/etc", "/home", "/mnt", "/opt", "/proc", "/root", "/root/.ssh",
			"/run", "/srv", "/sys", "/tmp", "/usr", "/usr/bin", "/usr/local", "/var", "/var/log"),
		size:  size,
		boots: &counter{},
		users: map[string]user{"root": {0, "/root"}, "nobody": {65534, "/"}},
	}
}

// Clone makes another disk of the same content.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &Disk{
		files: d.files.clone(), size: d.size, seeded: d.seeded, boots: d.boots, users: maps.Clone(d.users),
	}
}

// Install makes what an installer leaves behind: a user, and a name.
func (d *Disk) Install(user, hostname string) {
	if user != "" {
		d.addUser(user)
	}
	_ = d.files.write("/etc/hostname", fileMode, []byte(hostname+"\n")) // the disk may be full
}

// Used is how much is written, in bytes.
func (d *Disk) Used() int64 { return d.files.size() }

// File is a file or a directory of a disk.
type File struct {
	// Path is absolute and clean.
	Path string
	Info
	Data []byte
}

// Files lists what is on the disk, parents first.
func (d *Disk) Files() []File { return d.files.all() }

// Dump writes all that the disk contains, the same for the same content.
func (d *Disk) Dump(w io.Writer) error {
	var b bytes.Buffer
	number := func(n int64) { b.Write(binary.BigEndian.AppendUint64(nil, uint64(n))) }
	text := func(s string) { number(int64(len(s))); b.WriteString(s) }
	number(d.Size())
	for _, f := range d.Files() {
		text(f.Path)
		number(int64(f.Mode))
		text(string(f.Data))
	}
	_, err := b.WriteTo(w)
	return err
}

// Grow makes the disk at least so many bytes large.
func (d *Disk) Grow(size int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if size > d.size {
		d.size = size
		d.files.setLimit(size)
	}
}

// Size of the disk in bytes.
func (d *Disk) Size() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.size
}

// addUser makes a user unless it exists.
func (d *Disk) addUser(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.users[name]; ok {
		return
	}
	home := "/home/" + name
	d.users[name] = user{1000 + len(d.users), home}
	_ = d.files.mkdir(home) // may exist
	_ = d.files.mkdir(home + "/.ssh")
}

func (d *Disk) user(name string) (user, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	u, ok := d.users[name]
	return u, ok
}

// boot counts a start and tells whether it is the first for an instance ID.
func (d *Disk) boot(instanceID string) (n int, first bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	first = d.seeded != instanceID
	d.seeded = instanceID
	return d.boots.next(), first
}

// counter counts from 1.
type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) next() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return c.n
}

func sortedInts[V any](m map[int]V) []int { return slices.Sorted(maps.Keys(m)) }

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
