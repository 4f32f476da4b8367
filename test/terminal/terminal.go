//go:build linux

// Package terminal makes terminals for tests of what is used at one.
//
//	Open ──▶ keys: what is written there is typed, what is shown is read ──▶ closed with the test
//	     └─▶ screen: the standard input and output of a program
package terminal

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Open makes a terminal of a size.
func Open(t *testing.T, width, height uint16) (keys, screen *os.File) {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { _ = keys.Close() })
	must(t, unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	must(t, err)
	screen, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { _ = screen.Close() })
	must(t, unix.IoctlSetWinsize(int(keys.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width}))
	return keys, screen
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("a terminal cannot be made: %v", err)
	}
}
