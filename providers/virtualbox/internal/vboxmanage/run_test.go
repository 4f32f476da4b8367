package vboxmanage

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sandboxd.dev/sandboxd/providers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// program is a VBoxManage that does what a script says. Its arguments are a
// folder and whatever the script makes of the rest.
func program(t *testing.T, script string) (c *Client, dir string) {
	t.Helper()
	dir = t.TempDir()
	path := filepath.Join(dir, "VBoxManage")
	if err := os.WriteFile(path, []byte("#!/bin/sh\ncd "+dir+"\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	c = New(Options{Program: path, UserHome: "/somewhere"})
	t.Cleanup(c.Close)
	return c, dir
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestArgumentsAndEnvironment(t *testing.T) {
	t.Setenv("VBOX_IPC_SOCKETID", "own")
	t.Setenv("SANDBOXD_SECRET", "hidden")
	c, _ := program(t, `printf '%s|' "$@"; echo; env; cat; echo warning >&2`)
	out, err := c.Run(context.Background(), Call{Object: "x", Args: []string{"a b", "", "$HOME", "-x"}})
	if err != nil {
		t.Fatal(err)
	}
	got := string(out.Stdout)
	for _, want := range []string{"a b||$HOME|-x|\n", "VBOX_USER_HOME=/somewhere\n", "VBOX_IPC_SOCKETID=own\n", "LC_ALL=C.UTF-8\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in %q", want, got)
		}
	}
	if strings.Contains(got, "hidden") || string(out.Stderr) != "warning\n" {
		t.Errorf("got %q and %q", got, out.Stderr)
	}
}

// TestMomentary: a lock that others have for a moment is waited for.
func TestMomentary(t *testing.T) {
	c, dir := program(t, `echo >>tries
[ "$(wc -l <tries)" -gt 3 ] && exit 0
echo 'VBoxManage: error: locked
VBoxManage: error: Details: code VBOX_E_INVALID_OBJECT_STATE (0x80bb0007), component' >&2; exit 1`)
	if _, err := c.Run(context.Background(), Call{Object: "x", VM: "a"}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(read(t, dir+"/tries"), "\n"); n != 4 || c.Processes() != 4 {
		t.Errorf("%d tries, %d processes", n, c.Processes())
	}
}

// TestLastingFailure: what will not go away by itself is not tried again.
func TestLastingFailure(t *testing.T) {
	c, dir := program(t, `echo >>tries
echo 'VBoxManage: error: no
VBoxManage: error: Details: code VBOX_E_OBJECT_NOT_FOUND (0x80bb0001), component' >&2; exit 1`)
	_, err := c.Run(context.Background(), Call{Object: "machine x", Args: []string{"startvm", "x"}})
	var f *Failure
	if !errors.Is(err, providers.ErrNotFound) || !errors.As(err, &f) || f.Code != CodeObjectNotFound || f.Exit != 1 {
		t.Errorf("got %v", err)
	}
	if got := read(t, dir+"/tries"); got != "\n" {
		t.Errorf("tries: %q", got)
	}
}

// TestTurns: calls about one machine do not overlap, others do.
func TestTurns(t *testing.T) {
	c, dir := program(t, `mkdir "in-$1" || { echo >>overlap-$1; exit 0; }
[ "$1" = a ] || until [ -e in-b ] && [ -e in-c ]; do sleep 0.01; done
sleep 0.05; echo >>done-$1; [ "$1" = a ] && rmdir "in-$1"; exit 0`)
	var wg sync.WaitGroup
	for _, vm := range []string{"a", "a", "a", "a", "b", "c"} {
		wg.Go(func() {
			if _, err := c.Run(context.Background(), Call{Object: vm, VM: vm, Args: []string{vm}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := os.Stat(dir + "/overlap-a"); err == nil || strings.Count(read(t, dir+"/done-a"), "\n") != 4 {
		t.Error("calls about one machine overlapped")
	}
}

// TestCallerGoes: a call goes on to its end without its caller, and keeps the
// machine's turn; one that waits for a guest ends.
func TestCallerGoes(t *testing.T) {
	c, dir := program(t, `case $1 in slow) echo >begun; until [ -e go ]; do sleep 0.01; done; echo >ended;; hang) echo >hangs; sleep 1000;; esac`)
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan error, 1)
	go func() {
		_, err := c.Run(ctx, Call{Object: "x", VM: "a", Args: []string{"slow"}})
		gone <- err
	}()
	wait(t, dir+"/begun")
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller got %v", err)
	}
	next := make(chan error, 1)
	go func() {
		_, err := c.Run(context.Background(), Call{Object: "x", VM: "a"})
		if _, statErr := os.Stat(dir + "/ended"); statErr != nil {
			err = errors.Join(err, errors.New("the next call came before the last had ended"))
		}
		next <- err
	}()
	if err := os.WriteFile(dir+"/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := <-next; err != nil {
		t.Error(err)
	}
	ctx, cancel = context.WithCancel(context.Background())
	go func() {
		wait(t, dir+"/hangs")
		cancel()
	}()
	if _, err := c.Run(ctx, Call{Object: "x", Args: []string{"hang"}, Interruptible: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that waits for a guest: %v", err)
	}
}

func wait(t *testing.T, path string) {
	for range 3000 {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%s never came", path)
}

// slow takes its time for the first bytes.
type slow struct {
	bytes.Buffer
	once sync.Once
}

func (w *slow) Write(p []byte) (int, error) {
	w.once.Do(func() { time.Sleep(killAfter + killAfter/2) })
	return w.Buffer.Write(p)
}

// TestWholeOutput: all that a process wrote is there, whoever else keeps its streams
// open and however late it is read.
func TestWholeOutput(t *testing.T) {
	const size = 200_000
	c, dir := program(t, `(while [ -e stay ]; do sleep 0.05; done) &
head -c 200000 /dev/zero; echo end >&2`)
	if err := os.WriteFile(dir+"/stay", nil, 0o644); err != nil { // goes with the folder
		t.Fatal(err)
	}
	out, err := c.Run(t.Context(), Call{Object: "x"})
	if err != nil || len(out.Stdout) != size || string(out.Stderr) != "end\n" {
		t.Errorf("%d bytes, %q, %v", len(out.Stdout), out.Stderr, err)
	}
	var late slow
	out, err = c.Run(t.Context(), Call{Object: "x", Stdout: &late})
	if err != nil || late.Len() != size || string(out.Stderr) != "end\n" {
		t.Errorf("read late: %d bytes, %q, %v", late.Len(), out.Stderr, err)
	}
}

func TestLimit(t *testing.T) {
	c, _ := program(t, "exec sleep 1000")
	_, err := c.Run(context.Background(), Call{Object: "x", Args: []string{"controlvm", "x", "pause"}, Limit: 50 * time.Millisecond})
	if !errors.Is(err, providers.ErrUnavailable) || !strings.Contains(err.Error(), "controlvm pause did not end within 50ms") {
		t.Errorf("got %v", err)
	}
}

// TestPool: waiting for the others takes nothing of a call's limit, and a call
// whose caller goes meanwhile never begins.
func TestPool(t *testing.T) {
	c, dir := program(t, `[ "$1" = next ] || { echo >"begun-$1"; until [ -e go ]; do sleep 0.01; done; }`)
	var busy sync.WaitGroup
	for i := range parallel {
		busy.Go(func() {
			if _, err := c.Run(context.Background(), Call{Object: "x", Args: []string{strconv.Itoa(i)}}); err != nil {
				t.Error(err)
			}
		})
	}
	for i := range parallel {
		wait(t, filepath.Join(dir, "begun-"+strconv.Itoa(i)))
	}
	next := make(chan error, 1)
	go func() {
		_, err := c.Run(context.Background(), Call{Object: "x", Args: []string{"next"}, Limit: 50 * time.Millisecond})
		next <- err
	}()
	short, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	if _, err := c.Run(short, Call{Object: "x", Args: []string{"never"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a caller that goes got %v", err)
	}
	if len(next) > 0 {
		t.Errorf("before there was room: %v", <-next)
		next <- nil
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	busy.Wait()
	if err := <-next; err != nil && !strings.Contains(err.Error(), "did not end within") { // on a busy host
		t.Error(err)
	}
	c.Close()
	if _, err := os.Stat(filepath.Join(dir, "begun-never")); err == nil || c.Processes() != parallel+1 {
		t.Errorf("%d processes were started", c.Processes())
	}
}

// TestCloseEndsVisits: a call that waits for a guest ends by Close.
func TestCloseEndsVisits(t *testing.T) {
	c, dir := program(t, `echo >begun; exec sleep 1000`)
	done := make(chan error, 1)
	go func() {
		_, err := c.Run(context.Background(), Call{Object: "x", Args: []string{"guestcontrol"}, Interruptible: true})
		done <- err
	}()
	wait(t, filepath.Join(dir, "begun"))
	c.Close()
	select {
	case err := <-done:
		if err == nil {
			t.Error("it succeeded")
		}
	case <-time.After(time.Minute):
		t.Error("it goes on")
	}
}

func TestClosed(t *testing.T) {
	c, _ := program(t, "")
	c.Close()
	if _, err := c.Run(context.Background(), Call{Object: "x"}); !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Run(ended, Call{Object: "x"}); !errors.Is(err, context.Canceled) || c.Processes() != 0 {
		t.Errorf("got %v, %d processes", err, c.Processes())
	}
}

func TestFind(t *testing.T) {
	dir, real := t.TempDir(), t.TempDir()
	for _, d := range []string{dir, real} {
		if err := os.WriteFile(d+"/VBoxManage", []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	for name, tc := range map[string]struct {
		program string
		places  []string
		want    string
	}{
		"the real one goes before the one in PATH": {"", []string{"/nowhere", real}, real + "/VBoxManage"},
		"else the one in PATH":                     {"VBoxManage", []string{"/nowhere"}, dir + "/VBoxManage"},
		"a path is what it is":                     {dir + "/VBoxManage", []string{real}, dir + "/VBoxManage"},
		"nothing of the name":                      {"Other", []string{real}, ""},
		"nothing at the path":                      {real + "/Other", []string{real}, ""},
	} {
		if got, err := find(tc.program, tc.places); got != tc.want || (err != nil) != (tc.want == "") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
