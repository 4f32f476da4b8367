//go:build linux

// Package terminal makes terminals for tests of what is used at one.
//
//	Open ──▶ keys: what is written there is typed, what is shown is read ──▶ closed with the test,
//	     │         or before: that hangs it up
//	     └─▶ screen: the standard input and output of a program
package terminal

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Open makes a terminal of a size.
func Open(t testing.TB, width, height uint16) (keys, screen *os.File) {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	must(t, err)
	t.Cleanup(func() { _ = keys.Close() })
	var n int
	must(t, control(keys, func(fd int) (err error) {
		if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		}
		return err
	}))
	screen, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { _ = screen.Close() })
	Resize(t, keys, width, height)
	return keys, screen
}

// Resize gives a terminal another size.
func Resize(t testing.TB, keys *os.File, width, height uint16) {
	t.Helper()
	must(t, control(keys, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width})
	}))
}

// control does something with the descriptor of a file, whose Fd would make reading
// outlast Close.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	if err := raw.Control(func(fd uintptr) { done = do(int(fd)) }); err != nil {
		return err
	}
	return done
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("a terminal cannot be made: %v", err)
	}
}
