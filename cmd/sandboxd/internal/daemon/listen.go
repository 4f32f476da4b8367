package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

const (
	// socketMode lets the owner and the group connect.
	socketMode = 0o660
	// socketGroup is the group of those who may use a daemon of the system.
	socketGroup = "sandboxd"
	// knockTimeout is how long a socket that exists may take to answer.
	knockTimeout = 2 * time.Second
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
	dead, err := checkUnused(path)
	if err != nil {
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
	if err == nil && dead != nil {
		err = clearDead(path, dead, filepath.Join(private, "dead"))
	}
	if err == nil {
		err = os.Link(unready, path) // fails when another daemon was quicker
	}
	switch {
	case err == nil:
		return &socket{UnixListener: l, path: path, made: info}, nil
	case errors.Is(err, fs.ErrExist):
		err = inUse(path)
	default:
		err = fail(reason(err), "check the folder's permissions")
	}
	_ = l.Close()
	return nil, err
}

// prepare gives a socket its final mode and group.
func prepare(path string) (fs.FileInfo, error) {
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, err
	}
	if err := giveToGroup(path); err != nil {
		return nil, err
	}
	return os.Lstat(path)
}

func inUse(path string) error {
	return fmt.Errorf("socket %s is in use: another sandboxd daemon is running: stop it, or name another with --socket", path)
}

// checkUnused refuses a path where somebody listens or that is no socket. It
// returns what a dead daemon left there, if anything.
func checkUnused(path string) (dead fs.FileInfo, err error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("socket %s cannot be looked at: %w", path, reason(err))
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return nil, fmt.Errorf("socket %s: a file that is no socket is in its place: remove it, or name another with --socket", path)
	}
	conn, err := net.DialTimeout("unix", path, knockTimeout)
	switch {
	case err == nil:
		_ = conn.Close()
		return nil, inUse(path)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return info, nil // nobody listens
	default: // such as a daemon that is too busy to answer
		return nil, fmt.Errorf("socket %s: it cannot be told whether a daemon listens there: %w: stop it, or name another with --socket", path, err)
	}
}

// clearDead removes a dead socket by way of another path. If what it took was not
// that one, but one that took its place meanwhile, it puts that back.
func clearDead(path string, dead fs.FileInfo, aside string) error {
	err := os.Rename(path, aside)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	taken, err := os.Lstat(aside)
	if err != nil || os.SameFile(taken, dead) {
		return err
	}
	_ = os.Link(aside, path) // unless yet another one is there
	return fs.ErrExist
}

// giveToGroup lets the members of the group sandboxd in, if there is one and
// this process may.
func giveToGroup(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	group, err := user.LookupGroup(socketGroup)
	if err != nil {
		return nil // no such group: root alone
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
