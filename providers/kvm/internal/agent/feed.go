package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/guestio"
)

// piece is the most input on its way at a time, in bytes: the guest keeps no more
// of it than that.
const piece = 1 << 20

// endOfTyping is the character that ends what is typed at a terminal.
const endOfTyping = 4

// feeder passes the input of a command on while it runs.
//
//	Gather ──short──▶ guest-exec cat >DIR/in (the pipe that the command reads)
//	       ──long───▶ DIR/in.N ─▶ cat ─▶ DIR/in
//
// That cat has ended tells that the command has taken its piece, or nearly so.
type feeder struct {
	c   *Client
	dir string
	tty bool
	in  *guestio.Gather

	mu  sync.Mutex
	pid int64 // of the cat under way; 0 for none
}

// errUnread: the command reads no more.
var errUnread = errors.New("nobody reads the input")

// feed passes the input on until its end, or until nobody reads it. moved is
// called whenever something was taken.
func (f *feeder) feed(ctx context.Context, moved func()) error {
	if err := f.await(ctx); err != nil {
		return err
	}
	for n := 0; ; n++ {
		data, err := f.in.Take(ctx)
		if err == nil {
			err = f.put(ctx, n, data)
			moved()
		}
		switch {
		case err == nil:
		case errors.Is(err, errUnread):
			return nil
		case errors.Is(err, io.EOF):
			return f.end(ctx)
		case ctx.Err() != nil || providers.KindOf(err) != nil || errors.Is(err, guestcall.ErrRefused):
			return err
		default:
			return guestcall.InputError(err)
		}
	}
}

// await waits until run.sh has made the pipe; one that has failed never does.
func (f *feeder) await(ctx context.Context) error {
	var p pace
	for {
		handle, err := f.c.open(ctx, f.dir+"/bg", "r")
		if err == nil {
			return f.c.close(ctx, handle)
		}
		if !errors.Is(err, guestcall.ErrRefused) {
			return err
		}
		if err := p.pause(ctx); err != nil {
			return err
		}
	}
}

// end is the end of the input.
func (f *feeder) end(ctx context.Context) error {
	if f.tty {
		if err := f.put(ctx, 0, []byte{endOfTyping}); !errors.Is(err, errUnread) {
			return err
		}
		return nil
	}
	_, err := f.c.shell(ctx, `kill "$(cat "$1/hold")" 2>/dev/null`, nil, f.dir)
	return err
}

// put hands one piece over.
func (f *feeder) put(ctx context.Context, n int, data []byte) error {
	const short, long = `exec cat >"$1/in" 2>/dev/null`, `exec 3<"$2" && rm -f "$2" && exec cat <&3 >"$1/in" 2>/dev/null`
	if len(data) <= inlineMax {
		return f.cat(ctx, short, data)
	}
	path := f.dir + "/in." + strconv.Itoa(n)
	if err := f.c.fill(ctx, path, bytes.NewReader(data)); err != nil {
		return err
	}
	return f.cat(ctx, long, nil, path)
}

func (f *feeder) cat(ctx context.Context, script string, input []byte, args ...string) error {
	pid, err := f.c.start(ctx, shellPath, append([]string{"-c", script, "sandboxd", f.dir}, args...), input)
	if err != nil {
		return err
	}
	f.note(pid)
	s, err := f.c.wait(ctx, pid)
	if err != nil {
		return err // it is still under way: see stop
	}
	f.note(0)
	if s.Signal != nil || s.Code == nil || *s.Code != 0 {
		return errUnread
	}
	return nil
}

func (f *feeder) note(pid int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pid = pid
}

// stop ends a cat that nobody reads from, once feed has returned.
func (f *feeder) stop(ctx context.Context) {
	f.mu.Lock()
	pid := f.pid
	f.mu.Unlock()
	if pid == 0 {
		return
	}
	if _, err := f.c.shell(ctx, `kill -9 "$1"`, nil, fmt.Sprint(pid)); err == nil {
		_, _ = f.c.wait(ctx, pid) // so that the agent forgets it
	}
}
