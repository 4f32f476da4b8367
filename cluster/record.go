package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// What a Record keeps in the data folder.
const (
	// File is the record.
	File = "cluster.json"
	// lockFile is locked for as long as a daemon uses the folder.
	lockFile = "cluster.lock"
)

// ErrAnother is wrapped by what Check says of a cluster that is not, or not any more,
// the one that the record belongs to.
var ErrAnother = errors.New("not the cluster that this host belongs to")

// ErrSetBack is wrapped by what Check says of a cluster that knows less than it did.
var ErrSetBack = errors.New("the cluster was set back")

// Record is what a data folder knows of its cluster. Its methods may be called
// concurrently.
type Record struct {
	path string
	lock *os.File

	// accepted is what somebody said may be forgotten: the fingerprint of another
	// cluster, or what tag makes of a mark.
	accepted string

	mu   sync.Mutex
	kept kept
}

// kept is the form of the file.
type kept struct {
	// Instance marks everything that this host makes. It is made once.
	Instance string `json:"instance"`
	// Cluster is the one that the host belongs to; empty before the first.
	Cluster Identity `json:"cluster"`
	// Revision is the newest resource version that was seen.
	Revision string `json:"revision,omitempty"`
}

// Open opens the record of a data folder, and makes it when there is none. Only one
// process can have it open. accepted is what Join or Check asked for, if somebody said
// so.
func Open(dir, accepted string) (*Record, error) {
	r := &Record{path: filepath.Join(dir, File), accepted: accepted}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder %s: %w", dir, err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("data folder %s is in use: another sandboxd daemon is running: stop it, or name another with --data-dir", dir)
	}
	r.lock = lock
	if err := r.load(); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return r, nil
}

func (r *Record) load() error {
	raw, err := os.ReadFile(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return r.write(kept{Instance: uuid.NewString()})
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &r.kept); err != nil || r.kept.Instance == "" {
		return fmt.Errorf("%s is damaged: without it, this host's machines cannot be told from others': bring it back from a backup", r.path)
	}
	return nil
}

// Close lets others open the record.
func (r *Record) Close() error { return r.lock.Close() }

// Instance marks everything that this host makes.
func (r *Record) Instance() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kept.Instance
}

// Join has the record belong to a cluster. The first one is taken as it is. Another is
// refused, with ErrAnother, unless it was accepted: the things of the objects of the
// one before are collected then.
func (r *Record) Join(id Identity) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.kept.Cluster.Equal(id):
		return nil
	case r.kept.Cluster.System == "" || r.accepted != "" && r.accepted == id.Fingerprint():
		return r.write(kept{Instance: r.kept.Instance, Cluster: id})
	}
	return r.another(id)
}

func (r *Record) another(id Identity) error {
	what := "it is another cluster"
	if r.kept.Cluster.System == id.System {
		what = "the definitions of sandboxd's kinds were removed and made anew, and all objects went with them"
	}
	return fmt.Errorf("%w: %s (%s, but %s is noted in %s): nothing is touched; name the right kubeconfig or, if what is left on this host may be collected, say --cluster-accept %s",
		ErrAnother, what, id.Fingerprint(), r.kept.Cluster.Fingerprint(), r.path, id.Fingerprint())
}

// Check tells whether what was listed from a cluster just now can be relied on, given
// the resource versions of the lists in their order. The last one is noted when it
// can. An error wraps ErrAnother or ErrSetBack when it cannot.
func (r *Record) Check(id Identity, revisions ...string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.kept.Cluster.Equal(id) {
		return r.another(id)
	}
	mark := r.kept.Revision
	for _, revision := range revisions {
		if mark != "" {
			order, err := resourceversion.CompareResourceVersion(revision, mark)
			if err != nil {
				return fmt.Errorf("%w: its resource versions %q and %q cannot be compared: %w", ErrSetBack, revision, mark, err)
			}
			if tag := r.tag(); order < 0 && r.accepted != tag {
				return fmt.Errorf("%w: it answers at resource version %s and has been at %s, so objects that were made since are missing: nothing is collected; if what belongs to them may be, say --cluster-accept %s",
					ErrSetBack, revision, mark, tag)
			}
		}
		mark = revision
	}
	if mark == r.kept.Revision {
		return nil
	}
	return r.note(mark)
}

// tag names the mark that somebody may say is to be forgotten. It is good for once: the
// next mark has another.
func (r *Record) tag() string { return r.kept.Cluster.Fingerprint() + "@" + r.kept.Revision }

func (r *Record) note(revision string) error {
	next := r.kept
	next.Revision = revision
	return r.write(next)
}

// write replaces the file as a whole; it is on disk when it returns.
func (r *Record) write(next kept) error {
	raw, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return err
	}
	if err := replace(r.path, append(raw, '\n')); err != nil {
		return fmt.Errorf("%s cannot be written: %w", r.path, err)
	}
	r.kept = next
	return nil
}

func replace(path string, data []byte) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(data)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
