package bolt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// Why Open refuses a file, to be tested with errors.Is. It has not been changed.
var (
	// ErrInUse: another process holds the store, or this one does.
	ErrInUse = errors.New("is in use by another process (is a sandboxd daemon running?)")
	// ErrDamaged: the file is truncated or corrupt, if it ever was a store.
	ErrDamaged = errors.New("is damaged")
	// ErrForeign: the file is a database, but of another program.
	ErrForeign = errors.New("is not a sandboxd store")
	// ErrNewer: a newer sandboxd has changed the file's schema.
	ErrNewer = errors.New("was written by a newer sandboxd")
)

const (
	// mapSize is the address space reserved for the file, in bytes. Up to
	// that size bbolt need not remap it, for which it would wait until a
	// backup is done. Reserved addresses take no memory.
	mapSize = 1 << 30
	// growBy is by how much the file grows at least, in bytes.
	growBy = 1 << 20
)

// Open opens the store in the file of that path. It creates the file, for the
// owner only, if there is none, and its directory too. A file that it did not
// create it first looks at without changing it: it refuses one that is in use,
// is damaged, belongs to something else or was changed by a newer version.
func Open(path string, opts Options) (*Store, error) {
	return open(path, opts.withDefaults(), migrations)
}

func open(path string, opts Options, migrations []migration) (*Store, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := create(path, newest(migrations)); err != nil {
			if isFull(err) {
				return nil, fmt.Errorf("store %s: cannot be created: %w", path, noSpace(err))
			}
			return nil, fmt.Errorf("store %s: cannot be created: %w: choose a path where the daemon may make files", path, err)
		}
	}
	if err := look(path, opts.LockTimeout, newest(migrations)); err != nil {
		return nil, explain(path, err)
	}
	db, err := openDB(path, false, opts.LockTimeout)
	if err != nil {
		return nil, explain(path, err)
	}
	c, err := recoverContents(db, migrations)
	if err != nil {
		_ = db.Close()
		return nil, explain(path, err)
	}
	removeUnfinished(path)
	s := &Store{
		path:     path,
		instance: c.instance,
		opts:     opts,
		db:       db,
		commitTx: (*bbolt.Tx).Commit,
		writes:   make(chan *write),
		closing:  make(chan struct{}),
		opened:   c.revision,
		index:    c.index,
		revision: c.revision,
		logs:     make(map[string]*watchLog),
	}
	s.running.Go(s.commitAll)
	return s, nil
}

// explain makes one sentence of why a file could not be opened: what is wrong
// with it and what to do.
func explain(path string, err error) error {
	var todo string
	switch {
	case errors.Is(err, ErrInUse):
		return fmt.Errorf("store %s: %w", path, err)
	case errors.Is(err, ErrDamaged):
		todo = "restore a backup, or move the file away to begin with an empty store"
	case errors.Is(err, ErrForeign):
		todo = "choose another path for the store"
	case errors.Is(err, ErrNewer):
		todo = "run that version, or restore a backup from before the upgrade"
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("cannot be opened: %w", fs.ErrPermission)
		todo = "run the daemon as the user that owns it"
	default:
		return fmt.Errorf("store %s: cannot be opened: %w", path, err)
	}
	return fmt.Errorf("store %s: %w: %s", path, err, todo)
}

// look refuses a file that is not ours to write to, and changes nothing in it.
func look(path string, timeout time.Duration, newest uint64) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w (it is not a regular file)", ErrForeign)
	case info.Size() == 0:
		return fmt.Errorf("%w (it is empty)", ErrDamaged)
	}
	// Opened so, bbolt reads the header pages only.
	db, err := openDB(path, true, timeout)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	if info, err = file.Stat(); err != nil {
		return err
	}
	return db.View(func(tx *bbolt.Tx) error {
		if err := verify(file, info.Size(), db.Info().PageSize, tx.ID()%2); err != nil {
			return fmt.Errorf("%w (%w)", ErrDamaged, err)
		}
		_, err := identify(tx, newest)
		return err
	})
}

// openDB opens a bbolt file that exists.
func openDB(path string, readOnly bool, timeout time.Duration) (*bbolt.DB, error) {
	options := &bbolt.Options{
		Timeout:      timeout,
		ReadOnly:     readOnly,
		FreelistType: bbolt.FreelistMapType,
		NoStatistics: true,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			return os.OpenFile(name, flag&^os.O_CREATE, mode)
		},
	}
	if !readOnly {
		options.InitialMmapSize = mapSize
	}
	db, err := bbolt.Open(path, 0, options)
	var system syscall.Errno
	switch {
	case err == nil:
		db.AllocSize = growBy
		return db, nil
	case errors.Is(err, bbolterrors.ErrTimeout):
		return nil, ErrInUse
	case errors.As(err, &system):
		return nil, err
	default: // what bbolt finds wrong with the headers and the size
		return nil, fmt.Errorf("%w, if it ever was a store (%w)", ErrDamaged, err)
	}
}

// recoverContents brings an opened file into the state that is served: synced,
// migrated and loaded.
func recoverContents(db *bbolt.DB, migrations []migration) (contents, error) {
	// A process that was killed between writing a header page and syncing it
	// left a transaction that can be read and that a power failure would still
	// undo, while its successor builds upon it.
	if err := db.Sync(); err != nil {
		return contents{}, err
	}
	if err := migrate(db, migrations); err != nil {
		return contents{}, err
	}
	var c contents
	err := db.View(func(tx *bbolt.Tx) (err error) {
		c, err = load(tx)
		return err
	})
	return c, err
}
