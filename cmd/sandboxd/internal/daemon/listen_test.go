package daemon

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "s.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	mode := fs.FileMode(0o660)
	if runtime.GOOS == "darwin" && os.Geteuid() != 0 {
		mode = 0o600
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode()&fs.ModeSocket == 0 || info.Mode().Perm() != mode {
		t.Errorf("got %v and %v", info.Mode(), err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left beside the socket: %v", left)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	// In use, it is refused; closed, it is gone.
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "is in use: another sandboxd daemon is running") {
		t.Errorf("got %v", err)
	}
	for range 2 {
		_ = l.Close()
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket was left behind: %v", err)
	}
}

func TestListenReplacesDeadSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	// A socket that took its place is not removed with it.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = first.Close()
	if _, err := net.Dial("unix", path); err != nil {
		t.Errorf("the second daemon's socket was removed by the first: %v", err)
	}
	_ = second.Close()
}

// TestListenOnce starts many daemons at once, over a dead one's socket: one gets
// it, and is the one who is reached there.
func TestListenOnce(t *testing.T) {
	for range 100 {
		path := filepath.Join(t.TempDir(), "s.sock")
		dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		dead.SetUnlinkOnClose(false)
		_ = dead.Close()
		got := make([]net.Listener, 4)
		var started sync.WaitGroup
		for i := range got {
			started.Go(func() {
				l, err := Listen(path)
				if err == nil {
					got[i] = l
				} else if !strings.Contains(err.Error(), "another sandboxd daemon is running") {
					t.Errorf("refused because %v", err)
				}
			})
		}
		started.Wait()
		got = slices.DeleteFunc(got, func(l net.Listener) bool { return l == nil })
		if len(got) != 1 {
			t.Fatalf("%d daemons got the socket", len(got))
		}
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatalf("nobody is reached: %v", err)
		}
		_ = conn.Close()
		_ = got[0].Close()
	}
}

// TestListenUnderForeignLock: whoever may read the socket's folder may lock it, and
// holds up nobody by it. No lock file is left.
func TestListenUnderForeignLock(t *testing.T) {
	dir := t.TempDir()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(filepath.Join(dir, "s.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("in the folder are %v, %v", files, err)
	}
	_ = l.Close()
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file:                                 "a file that is no socket is in its place",
		filepath.Join(file, "below"):         "its folder cannot be made",
		"/proc/nosuch/s.sock":                "its folder cannot be made",
		filepath.Join(dir, "link", "s.sock"): "",
	} {
		l, err := Listen(path)
		switch {
		case want == "" && err == nil:
			_ = l.Close()
		case err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n"):
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "mine" {
		t.Errorf("the file is now %q (%v)", content, err)
	}
}

func TestNotifier(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	t.Setenv("NOTIFY_SOCKET", path)
	Notifier()("READY=1")
	b := make([]byte, 100)
	n, err := l.Read(b)
	if err != nil || string(b[:n]) != "READY=1" {
		t.Errorf("got %q and %v", b[:n], err)
	}
	t.Setenv("NOTIFY_SOCKET", "")
	Notifier()("READY=1") // nobody to tell
}
