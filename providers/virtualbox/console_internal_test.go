package virtualbox

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"sandboxd.dev/sandboxd/providers"
)

func openLog(t *testing.T, path string, opts providers.ConsoleOptions) io.ReadCloser {
	t.Helper()
	log := consoleLog(path)
	log.Error = func(err error) error { return err }
	r, err := log.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wholeLog reads a log as far as it goes.
func wholeLog(t *testing.T, path string, tail int64) string {
	t.Helper()
	r := openLog(t, path, providers.ConsoleOptions{TailBytes: tail})
	defer func() { _ = r.Close() }()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestConsoleIsKept: whatever begins the file of the serial port anew, the log goes on.
func TestConsoleIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	keep := func() {
		t.Helper()
		for range 2 {
			if err := keepConsole(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	keep()
	if got := wholeLog(t, path, -1); got != "" {
		t.Errorf("nothing is %q", got)
	}
	all := ""
	for _, part := range []string{"one\n", "two\n", "", "three\n", "four\n"} {
		write(t, path, part)
		if all += part; wholeLog(t, path, -1) != all {
			t.Errorf("%q is %q", all, wholeLog(t, path, -1))
		}
		keep()
		if got := wholeLog(t, path, -1); got != all {
			t.Errorf("%q is %q once it is kept", all, got)
		}
	}
	write(t, path, "five\n")
	all += "five\n"
	for tail := range int64(len(all) + 3) {
		if got, want := wholeLog(t, path, tail), all[max(0, len(all)-int(tail)):]; got != want {
			t.Errorf("the last %d bytes are %q, not %q", tail, got, want)
		}
	}
}

// TestConsoleStaysBounded: however often a log is kept, it takes no more than so much.
func TestConsoleStaysBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	line := strings.Repeat("x", 1023) + "\n"
	for range 12 {
		write(t, path, strings.Repeat(line, 3<<10))
		if err := keepConsole(path); err != nil {
			t.Fatal(err)
		}
	}
	write(t, path, "the end\n")
	var size int64
	for _, part := range consoleParts(path) {
		var st unix.Stat_t
		if err := unix.Stat(part, &st); err != nil {
			t.Fatal(err)
		}
		size += st.Blocks * 512
	}
	log := wholeLog(t, path, -1)
	if size > 3*(consoleKeeps+consoleTrims) || len(log) < consoleKeeps || !strings.HasSuffix(log, line+"the end\n") || strings.ContainsRune(log, 0) {
		t.Errorf("36 MiB take %d bytes, and %d are shown that end with %q", size, len(log), log[max(0, len(log)-20):])
	}
}

// TestConsoleIsFollowed: whoever follows a log sees all of it once, while somebody types
// now and then and the file is begun anew.
func TestConsoleIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine", "console.log")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		r := openLog(t, path, providers.ConsoleOptions{Follow: true})
		defer func() { _ = r.Close() }()
		seen := make(chan string)
		go func() {
			var all bytes.Buffer
			_, _ = io.Copy(&all, r)
			seen <- all.String()
		}()
		pass := func() { time.Sleep(time.Second) } // so that a follower that loses its place is found out
		write(t, path, "boot ")
		pass()
		for range 3 {
			if err := keepConsole(path); err != nil { // somebody types
				t.Fatal(err)
			}
			write(t, path+".0", "typed ")
			pass()
			write(t, path, "later ") // nobody types any more
			write(t, path+".0", "the rest ")
			pass()
		}
		if err := os.RemoveAll(filepath.Dir(path)); err != nil {
			t.Fatal(err)
		}
		if got, want := <-seen, "boot "+strings.Repeat("typed the rest later ", 3); got != want {
			t.Errorf("followed %q, not %q", got, want)
		}
	})
}
