package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// socketMode lets the owner and the group connect.
	socketMode = 0o660
	// ownerMode is that of a user's own daemon on macOS, where all users are in
	// one group.
	ownerMode = 0o600
	// socketGroup is the group of those who may use a daemon of the system.
	socketGroup = "sandboxd"
	// knockTimeout is how long a socket that exists may take to answer.
	knockTimeout = 2 * time.Second
	// lockTimeout is how long other daemons may take to make their sockets, and
	// lockInterval how often it is looked whether they have.
	lockTimeout  = 10 * time.Second
	lockInterval = 5 * time.Millisecond
)

// Listen listens on a unix socket. A socket that a dead daemon left is replaced,
// one that is in use is refused, however many daemons start at once. The socket
// has its final mode and group from the moment it can be found. Closing the
// listener removes it.
func Listen(path string) (net.Listener, error) {
	fail := func(err error, advice string) error {
		return fmt.Errorf("socket %s: %w: %s", path, err, advice)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fail(fmt.Errorf("its folder cannot be made: %w", reason(err)), "name another with --socket, or run the daemon as root")
	}
	unlock, err := lock(path)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, fail(fmt.Errorf("another daemon has been starting on it for %v", lockTimeout), "end that one, or name another with --socket")
	case err != nil:
		return nil, fail(fmt.Errorf("its folder cannot be written to: %w", reason(err)), "name another with --socket, or run the daemon as root")
	}
	defer unlock()
	if err := checkUnused(path); err != nil {
		return nil, err
	}
	// The socket is made where nobody else comes in, and moved when it is ready.
	private, err := os.MkdirTemp(dir, ".s")
	if err != nil {
		return nil, fail(fmt.Errorf("its folder cannot be written to: %w", reason(err)), "name another with --socket, or run the daemon as root")
	}
	defer func() { _ = os.RemoveAll(private) }()
	unready := filepath.Join(private, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: unready, Net: "unix"})
	if err != nil {
		return nil, fail(err, "name one with a shorter path, with --socket")
	}
	l.SetUnlinkOnClose(false)
	info, err := prepare(unready)
	if err == nil {
		err = os.Rename(unready, path)
	}
	if err != nil {
		_ = l.Close()
		return nil, fail(reason(err), "check the folder's permissions")
	}
	return &socket{UnixListener: l, path: path, made: info}, nil
}

// lock keeps other daemons from making the same socket meanwhile: what is found
// in its place stays so. The lock is on a file that only this user can open, since
// whoever can open one can lock it. Nothing is left behind, and a dead daemon
// holds no lock.
func lock(socket string) (unlock func(), err error) {
	path := filepath.Join(filepath.Dir(socket), "."+filepath.Base(socket)+".lock")
	for deadline := time.Now().Add(lockTimeout); ; time.Sleep(lockInterval) {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && isStill(f, path) {
			return func() {
				_ = os.Remove(path) // who waits for it makes another
				_ = f.Close()
			}, nil
		}
		_ = f.Close()
		switch {
		case err == nil, errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline):
			return nil, err
		}
	}
}

// isStill tells whether a path leads to an open file.
func isStill(f *os.File, path string) bool {
	opened, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(opened, there)
}

// prepare gives a socket its final mode and group.
func prepare(path string) (fs.FileInfo, error) {
	mode := fs.FileMode(socketMode)
	if runtime.GOOS == "darwin" && os.Geteuid() != 0 {
		mode = ownerMode
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, err
	}
	if err := giveToGroup(path); err != nil {
		return nil, err
	}
	return os.Lstat(path)
}

// checkUnused refuses a path where somebody listens or that is no socket.
func checkUnused(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("socket %s cannot be looked at: %w", path, reason(err))
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("socket %s: a file that is no socket is in its place: remove it, or name another with --socket", path)
	}
	conn, err := net.DialTimeout("unix", path, knockTimeout)
	switch {
	case err == nil:
		_ = conn.Close()
		return fmt.Errorf("socket %s is in use: another sandboxd daemon is running: stop it, or name another with --socket", path)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil // nobody listens: a dead daemon's
	default: // such as a daemon that is too busy to answer
		return fmt.Errorf("socket %s: it cannot be told whether a daemon listens there: %w: stop it, or name another with --socket", path, err)
	}
}

// giveToGroup lets the members of the group sandboxd in, if there is one and
// this process may.
func giveToGroup(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	group, err := user.LookupGroup(socketGroup)
	if err != nil { // no such group: root alone, also where files get their folder's group
		return os.Chown(path, -1, os.Getegid())
	}
	gid, err := strconv.Atoi(group.Gid)
	if err != nil {
		return err
	}
	return os.Chown(path, -1, gid)
}

// socket removes its file when it is closed, unless another is in its place.
type socket struct {
	*net.UnixListener
	path string
	made fs.FileInfo
}

// Close implements net.Listener. It may be repeated.
func (s *socket) Close() error {
	if info, err := os.Lstat(s.path); err == nil && os.SameFile(info, s.made) {
		_ = os.Remove(s.path)
	}
	return s.UnixListener.Close()
}
