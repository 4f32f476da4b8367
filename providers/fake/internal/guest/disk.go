package guest

import (
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
	boots  int
	users  map[string]user
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
		users: map[string]user{"root": {0, "/root"}, "nobody": {65534, "/"}},
	}
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
	d.boots++
	first = d.seeded != instanceID
	d.seeded = instanceID
	return d.boots, first
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
