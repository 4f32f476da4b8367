package consolelog_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/consolelog"
)

// written is a log in a folder of its own. Besides console.log there are the older
// files, and console.log.all is the archive.
type written struct {
	t    *testing.T
	path string
	over chan struct{}
}

func newWritten(t *testing.T) written {
	t.Helper()
	w := written{t: t, path: filepath.Join(t.TempDir(), "machine", "console.log")}
	w.must(os.Mkdir(filepath.Dir(w.path), 0o700))
	return w
}

func (w written) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// older are the older files, oldest first.
var older = []string{".3", ".2", ".1", ".0"}

// inside does something in time that passes at once.
func (w written) inside(do func(t *testing.T, w written)) {
	w.t.Helper()
	synctest.Test(w.t, func(t *testing.T) {
		w.t, w.over = t, make(chan struct{})
		do(t, w)
		synctest.Wait()
	})
}

// add appends to a file.
func (w written) add(suffix, text string) {
	w.t.Helper()
	f, err := os.OpenFile(w.path+suffix, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	w.must(err)
	_, err = f.WriteString(text)
	w.must(errors.Join(err, f.Close()))
}

// rotate begins the log anew in another file, as virtlogd does.
func (w written) rotate() {
	w.t.Helper()
	for n := range older[1:] {
		if err := os.Rename(w.path+older[n+1], w.path+older[n]); !errors.Is(err, os.ErrNotExist) {
			w.must(err)
		}
	}
	w.must(os.Rename(w.path, w.path+".0"))
	w.add("", "")
}

// archive puts it aside, as is done for VirtualBox.
func (w written) archive() {
	w.t.Helper()
	if b, err := os.ReadFile(w.path + ".0"); err == nil {
		w.add(".all", string(b))
	}
	if err := os.Rename(w.path, w.path+".0"); !errors.Is(err, os.ErrNotExist) {
		w.must(err)
	}
}

func (w written) log() consolelog.Log {
	return consolelog.Log{
		Path: w.path, Archive: w.path + ".all", Over: w.over,
		Older: func() (paths []string, _ error) {
			for _, suffix := range older {
				paths = append(paths, w.path+suffix)
			}
			return paths, nil
		},
		Error: func(err error) error { return providers.Errorf(providers.ErrUnavailable, "machine a", "%w", err) },
	}
}

// read reads as far as it goes.
func (w written) read(tail int64) string {
	w.t.Helper()
	r, err := w.log().Open(w.t.Context(), providers.ConsoleOptions{TailBytes: tail})
	w.must(err)
	b, err := io.ReadAll(r)
	w.must(errors.Join(err, r.Close()))
	return string(b)
}

// follower reads on beside the test.
type follower struct {
	io.ReadCloser
	mu    sync.Mutex
	text  strings.Builder
	err   error
	ended bool
}

func (w written) follow(ctx context.Context, tail int64) *follower {
	w.t.Helper()
	r, err := w.log().Open(ctx, providers.ConsoleOptions{TailBytes: tail, Follow: true})
	w.must(err)
	f := &follower{ReadCloser: r}
	go func() {
		_, err := io.Copy(f, r)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.err, f.ended = err, true
	}()
	return f
}

// Write keeps what was read.
func (f *follower) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text.Write(b)
}

// pass lets so much time pass that a follower has seen all there is.
func pass() { time.Sleep(time.Second) }

func (f *follower) seen() (text string, ended bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text.String(), f.ended, f.err
}

// TestRead: the files are read in their order, those that are not there are passed over,
// and no more than was asked for.
func TestRead(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"none": {}, "empty": {"": "", ".0": ""}, "one": {"": "only"}, "just begun anew": {".0": "before"},
		"all": {".all": "oldest ", ".1": "older ", ".0": "old ", "": "new"}, "archive": {".all": "oldest"},
		"gaps": {".all": "oldest ", ".0": "", "": "new"}, "others": {"": "new", ".4": "no", ".x": "no"},
	} {
		w, all := newWritten(t), ""
		for _, suffix := range append([]string{".all", ".4"}, append(older, "", ".x")...) {
			if text, ok := files[suffix]; ok {
				w.add(suffix, text)
				if text != "no" {
					all += text
				}
			}
		}
		if got := w.read(-1); got != all {
			t.Errorf("%s: read %q, not %q", name, got, all)
		}
		for tail := range int64(len(all) + 3) {
			if got, want := w.read(tail), all[max(0, len(all)-int(tail)):]; got != want {
				t.Errorf("%s: the last %d bytes are %q, not %q", name, tail, got, want)
			}
		}
	}
}

// TestHole: space that was freed is passed over, before the log is read and while it is.
func TestHole(t *testing.T) {
	w := newWritten(t)
	const hole = 1 << 20
	w.add(".0", "")
	w.must(os.Truncate(w.path+".0", hole))
	w.add(".0", "\x00after a hole ")
	w.add("", "the end")
	for tail, want := range map[int64]string{-1: "\x00after a hole the end", 100: "\x00after a hole the end", 10: "le the end"} {
		got := strings.TrimLeft(w.read(tail), "\x00") // a file system frees no less than a block
		if want := strings.TrimLeft(want, "\x00"); got != want {
			t.Errorf("tail %d: %q, not %q", tail, got, want)
		}
		if n := len(w.read(tail)); n > 64<<10 {
			t.Errorf("tail %d: %d bytes", tail, n)
		}
	}
}

// TestFollow: whoever follows a log sees all of it once, however it goes on.
func TestFollow(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(w written)
		want string
	}{
		"grows":         {func(w written) { w.add("", "more "); pass(); w.add("", "and more") }, "more and more"},
		"is rotated":    {func(w written) { w.add("", "last "); w.rotate(); w.add("", "first") }, "last first"},
		"rotated twice": {func(w written) { w.rotate(); w.add("", "one "); w.rotate(); w.add("", "two") }, "one two"},
		"rotated and gone": {func(w written) {
			w.add("", "seen")
			pass()
			for range len(older) + 1 {
				w.rotate()
				w.add("", " new")
			}
		}, "seen new new new new new"},
		"is begun anew": {func(w written) { w.must(os.Truncate(w.path, 0)); pass(); w.add("", "anew") }, "anew"},
		"was shortened": {func(w written) { w.must(os.WriteFile(w.path, []byte("short"), 0o600)) }, "short"},
		"vanishes":      {func(w written) { w.must(os.Remove(w.path)); pass(); w.add("", "again") }, "again"},
		"is put aside": {func(w written) {
			w.archive()
			w.add(".0", "typed ")
			pass()
			w.add("", "later")
			w.add(".0", "the rest ")
		}, "typed the rest later"},
		"goes on late before it is put aside": {func(w written) {
			w.archive()
			w.add("", "later")
			for range 5 {
				time.Sleep(80 * time.Millisecond)
				w.add(".0", "rest ")
			}
		}, "rest rest rest rest rest later"},
		"put aside twice": {func(w written) {
			w.archive()
			pass()
			w.add(".0", "one ")
			w.archive()
			w.add("", "two ")
			w.archive()
			w.add("", "three")
		}, "one two three"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWritten(t)
			w.add("", "this was before")
			w.inside(func(t *testing.T, w written) {
				f := w.follow(t.Context(), 0)
				defer func() { w.must(f.Close()) }()
				pass()
				c.do(w)
				pass()
				if text, ended, err := f.seen(); text != c.want || ended {
					t.Errorf("followed %q, not %q; ended: %t, %v", text, c.want, ended, err)
				}
			})
		})
	}
}

// TestFollowAtRandom: as above, with whatever comes.
func TestFollowAtRandom(t *testing.T) {
	for seed := range uint64(20) {
		w := newWritten(t)
		w.inside(func(t *testing.T, w written) {
			random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test's
			ctx := t.Context()
			early, late := w.follow(ctx, -1), (*follower)(nil)
			move := []func(){w.rotate, w.archive}[seed%2]
			var all strings.Builder
			missed, typed := 0, false
			for n := range 40 {
				text := fmt.Sprintf("%d ", n)
				where := ""
				if typed {
					where = ".0"
				}
				switch random.IntN(5) {
				case 0:
					if !typed {
						w.add("", "")
						move()
						typed = seed%2 == 1
						time.Sleep(350 * time.Millisecond) // what comes and goes between two looks is missed
					} else {
						typed = false
						w.add("", "")
					}
				case 1:
					pass()
				default:
					w.add(where, text)
					all.WriteString(text)
				}
				time.Sleep(time.Duration(random.IntN(150)) * time.Millisecond)
				if late == nil && n == 20 {
					late, missed = w.follow(ctx, 0), all.Len()
				}
			}
			pass()
			for f, want := range map[*follower]string{early: all.String(), late: all.String()[missed:]} {
				if text, ended, err := f.seen(); text != want || ended {
					t.Errorf("seed %d: followed %q, not %q; ended: %t, %v", seed, text, want, ended, err)
				}
				w.must(f.Close())
			}
		})
	}
}

// TestEnd: what a follower waits for ends at once, each in its way.
func TestEnd(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(w written, f *follower, cancel func())
		text string
		want error // nil for io.EOF, which io.Copy does not tell
	}{
		"context":  {func(_ written, _ *follower, cancel func()) { cancel() }, "", context.Canceled},
		"Close":    {func(w written, f *follower, _ func()) { w.must(f.Close()); w.must(f.Close()) }, "", os.ErrClosed},
		"provider": {func(w written, _ *follower, _ func()) { close(w.over) }, "", nil},
		"machine": {func(w written, _ *follower, _ func()) {
			w.add("", "last words")
			w.must(os.RemoveAll(filepath.Dir(w.path)))
			pass()
		}, "last words", nil},
		"failure": {func(w written, _ *follower, _ func()) {
			w.must(os.Rename(w.path, w.path+".0"))
			w.must(os.Mkdir(w.path, 0o700)) // reading that fails
			pass()
		}, "", syscall.EISDIR},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWritten(t)
			w.add("", "this was before")
			w.inside(func(t *testing.T, w written) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				f := w.follow(ctx, 0)
				defer func() { _ = f.Close() }()
				pass()
				if text, ended, err := f.seen(); ended {
					t.Fatalf("it has ended with %v after %q", err, text)
				}
				began := time.Now()
				c.end(w, f, cancel)
				synctest.Wait()
				text, ended, err := f.seen()
				if !ended || !errors.Is(err, c.want) || text != c.text {
					t.Errorf("after %v and %q it has ended: %t, %v", time.Since(began), text, ended, err)
				}
				if c.want == syscall.EISDIR && (!errors.Is(err, providers.ErrUnavailable) || !strings.HasPrefix(err.Error(), "machine a: the log of its console cannot be read: ")) {
					t.Errorf("the failure is told as %v", err)
				}
				if _, err := f.Read(nil); name == "Close" && !errors.Is(err, os.ErrClosed) {
					t.Errorf("once it is closed, it gives %v", err)
				}
			})
		})
	}
}

// TestOpenFails: what cannot be opened is told with its kind, and leaves nothing open.
func TestOpenFails(t *testing.T) {
	w := newWritten(t)
	w.add("", "new")
	log, broken := w.log(), errors.New("the disk is broken")
	log.Older = func() ([]string, error) { return nil, broken }
	r, err := log.Open(t.Context(), providers.ConsoleOptions{})
	if r != nil || !errors.Is(err, broken) || !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("opened %v, %v", r, err)
	}
}
