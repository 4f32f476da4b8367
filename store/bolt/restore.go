package bolt

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Check tells whether a file is a store that this version can open, a backup for
// example. It changes nothing. Its errors are those of Open.
func Check(path string) error {
	if err := look(path, Options{}.withDefaults().LockTimeout, newest(migrations)); err != nil {
		return explain(path, err)
	}
	return nil
}

// Restore puts a backup in the place of the store of that path, which may be
// damaged or missing, and returns what the store's file that was there is called
// from then on; "" when there was none. The path has the old store or the whole
// backup at any time. ErrInUse while a process holds the store; a backup that
// could not be opened is refused as Open refuses it. The backup itself stays.
func Restore(backup, path string) (aside string, err error) {
	dir := filepath.Dir(path)
	if _, missing := os.Stat(dir); errors.Is(missing, fs.ErrNotExist) {
		defer func() {
			if err != nil {
				_ = os.Remove(dir) // nothing is in it: a backup that is refused leaves no trace
			}
		}()
	}
	if err := makeDir(dir); err != nil {
		return "", fmt.Errorf("store %s: %w", path, err)
	}
	unlock, err := lockFile(path)
	if err != nil {
		return "", fmt.Errorf("store %s: %w", path, err)
	}
	defer unlock()
	staged, err := stage(backup, path)
	if err != nil {
		return "", err
	}
	defer func() { _ = os.Remove(staged) }()
	// What is checked is the copy, which nobody else writes to.
	if err := look(staged, Options{}.withDefaults().LockTimeout, newest(migrations)); err != nil {
		return "", explainBackup(backup, err)
	}
	if aside, err = setAside(path); err != nil {
		return "", fmt.Errorf("store %s: cannot be kept aside: %w", path, err)
	}
	if err := os.Rename(staged, path); err != nil {
		return aside, fmt.Errorf("store %s: cannot be replaced: %w", path, err)
	}
	return aside, syncDir(filepath.Dir(path))
}

// explainBackup makes one sentence of why a backup was refused.
func explainBackup(path string, err error) error {
	switch {
	case errors.Is(err, ErrDamaged), errors.Is(err, ErrForeign):
		return fmt.Errorf("backup %s: %w: nothing was changed: name another backup", path, err)
	case errors.Is(err, ErrNewer):
		return fmt.Errorf("backup %s: %w: nothing was changed: restore it with that version", path, err)
	default:
		return fmt.Errorf("backup %s: cannot be opened: %w", path, err)
	}
}

// lockFile takes the lock that an open store has, if there is a file.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrInUse
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

// stage copies a backup beside the store, for the owner only, and onto the disk.
func stage(backup, path string) (_ string, err error) {
	from, err := os.Open(backup)
	if err != nil {
		return "", fmt.Errorf("backup %s: cannot be read: %w", backup, cause(err))
	}
	defer func() { _ = from.Close() }()
	to, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+unfinished+"*") // mode 0600
	if err != nil {
		if isFull(err) {
			err = noSpace(err)
		}
		return "", fmt.Errorf("store %s: %w", path, err)
	}
	_, err = io.Copy(to, from)
	if err = errors.Join(err, to.Sync(), to.Close()); err != nil {
		_ = os.Remove(to.Name())
		if isFull(err) {
			return "", fmt.Errorf("store %s: backup %s cannot be copied to it: %w", path, backup, noSpace(err))
		}
		return "", fmt.Errorf("backup %s: cannot be copied: %w", backup, err)
	}
	return to.Name(), nil
}

// setAside gives the store's file a second name, under which it stays.
func setAside(path string) (string, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	stamp := path + ".before-" + time.Now().UTC().Format("20060102T150405")
	for n := 1; ; n++ {
		aside := stamp
		if n > 1 {
			aside = fmt.Sprintf("%s-%d", stamp, n)
		}
		if err := os.Link(path, aside); !errors.Is(err, fs.ErrExist) {
			return aside, err
		}
	}
}

// cause leaves out the path that an error of the file system repeats.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
