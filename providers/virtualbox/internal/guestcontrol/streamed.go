package guestcontrol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/guestio"
)

const (
	// readAhead is how much of an input is read before it is wanted, in bytes. What has
	// ended within it, and within settle, goes in before the command starts.
	readAhead = 1 << 20
	settle    = 20 * time.Millisecond
	// maxPiece is the most input on its way at a time, in bytes.
	maxPiece = 8 << 20
	// parting is how long the end of a command may take to be heard of when its input
	// cannot be passed on any more.
	parting = 15 * time.Second
)

// plan is how a command is run.
type plan struct {
	script string
	in     input  // what was copied in before; empty for nothing
	dir    string // of the guest, for a command that is fed while it runs; else empty
	ahead  *guestio.Gather
	typed  bool
	resize <-chan providers.TerminalSize
}

// end ends the reading of the input.
func (p *plan) end() {
	if p.ahead != nil {
		p.ahead.Close()
	}
}

// plan makes up how a command is run, and copies in what it is to have from the
// beginning.
func (c *Client) plan(ctx context.Context, id string, req providers.ExecRequest) (p *plan, err error) {
	p = &plan{dir: "/tmp/.sandboxd-" + id}
	if req.TTY {
		return p, c.planTerminal(ctx, id, req, p)
	}
	var whole io.Reader
	if req.Stdin != nil {
		p.ahead = guestio.NewGather(guestcall.Input(ctx, req.Stdin), readAhead)
		all, ended, err := p.ahead.Settle(ctx, settle)
		if err != nil {
			return p, err
		}
		if !ended {
			if p.in, err = c.input(ctx, id, req.Env, nil); err == nil {
				p.script = fedScript(id, p.dir, p.in, req)
			}
			return p, err
		}
		whole = strings.NewReader(string(all))
	}
	p.dir = ""
	if p.in, err = c.input(ctx, id, req.Env, whole); err == nil {
		p.script = execScript(id, p.in, req)
	}
	return p, err
}

// planTerminal: all that the command is given is in a script, which is copied in.
func (c *Client) planTerminal(ctx context.Context, id string, req providers.ExecRequest, p *plan) (err error) {
	stdin := req.Stdin
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	p.typed, p.resize = true, req.Resize
	p.ahead = guestio.NewGather(guestio.Typed(guestcall.Input(ctx, stdin)), readAhead)
	size := ""
	select {
	case s := <-req.Resize:
		if s != (providers.TerminalSize{}) {
			size = fmt.Sprintf("stty rows %d cols %d 2>/dev/null\n", s.Height, s.Width)
		}
	default:
	}
	if p.in, err = c.input(ctx, id, nil, strings.NewReader(innerScript(p.dir, size, req))); err == nil {
		p.script = head(id) + setPath + "file=" + string(p.in) + " d=" + p.dir + "\n" + pumpScript + terminalScript
	}
	return err
}

// refuseByFile is how what comes after the pump refuses: the end of it is reported by
// one, once everything is cleared away.
const refuseByFile = "refuse() {\necho \"$1\" >&4\nexit 0\n}\n"

// fedScript is execScript for a command that is fed while it runs.
func fedScript(token, dir string, in input, req providers.ExecRequest) string {
	text := refuseByFile + startOf(req, readScript) + "exec 4>&- <&6 6<&-\n" + becomeCommand
	return head(token) + setPath + in.open() + asUser(req, text, "") + "file= d=" + dir + "\n" + pumpScript + "report start\n" +
		"{\neval \"$as\"\n}" + in.from() + " 4>\"$d/fail\" &\n" +
		"child=$!\nexec 3<&- 6<&-\nwait \"$child\" 2>/dev/null\nover \"$?\"\n"
}

// innerScript is what runs at a terminal.
func innerScript(dir, size string, req providers.ExecRequest) string {
	start := startOf(req, "vars="+quote(quote(req.Env...))+"\n")
	return "d=" + dir + "\nrm -f \"$0\"\n" + size + "tty >\"$d/tty\"\nexec 4>\"$d/fail\" 5>&2 2>/dev/null\n" +
		refuseByFile + asUser(req, refuseByFile+start+"exec 4>&-\nexec \"$@\"\n", "yes") +
		// What is typed to end the command is not for this shell, which says nothing
		// of what killed it either.
		"trap : INT QUIT\n(eval \"$as\") 2>&5 5>&-\necho \"$?\" >\"$d/code\"\n"
}

// feeding is what goes on beside a command that is fed while it runs.
type feeding struct {
	cancel context.CancelFunc
	beside sync.WaitGroup
}

// stop ends it, and waits until it has.
func (f *feeding) stop() {
	f.cancel()
	f.beside.Wait()
}

// feed passes on what a command is given once it runs.
func (c *Client) feed(r *run, p *plan) *feeding {
	ctx, cancel := context.WithCancel(r.ctx)
	f := &feeding{cancel: cancel}
	if p.dir == "" {
		return f
	}
	begun := func() bool {
		select {
		case <-r.started:
			return true
		case <-ctx.Done():
			return false
		}
	}
	f.beside.Go(func() {
		if !begun() {
			return
		}
		if err := c.feedAll(ctx, r, p); err != nil && ctx.Err() == nil {
			r.fail(err)
		}
	})
	if p.typed {
		f.beside.Go(func() {
			if begun() {
				c.follow(ctx, p)
			}
		})
	}
	return f
}

// feedAll passes an input on to its end. Its errors are the reader's, or those of a
// copy to a command that has not ended.
func (c *Client) feedAll(ctx context.Context, r *run, p *plan) error {
	for n := 0; ; n++ {
		over, err := c.pass(ctx, p, n)
		switch {
		case errors.Is(err, guestcall.ErrCaller):
			return err
		case err != nil:
			t := time.NewTimer(parting)
			defer t.Stop()
			select {
			case <-r.ended:
				return nil
			case <-ctx.Done():
				return nil
			case <-t.C:
				return fmt.Errorf("input could not be passed on: %w", err)
			}
		case over:
			return nil
		}
		for taken := ""; taken != fmt.Sprint(n); {
			select {
			case taken = <-r.took:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// pass copies the next piece of an input to the guest, and tells whether it was the
// end.
func (c *Client) pass(ctx context.Context, p *plan, n int) (over bool, err error) {
	f, err := os.CreateTemp(c.temp, ".copy-*") // of mode 0600
	if err != nil {
		return false, err
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}()
	head := fmt.Sprintf("%d %010d\n", n, 0)
	size, err := p.gather(ctx, io.NewOffsetWriter(f, int64(len(head))))
	switch {
	case errors.Is(err, io.EOF) && p.typed: // its end was typed
		return true, nil
	case errors.Is(err, io.EOF):
		over, head = true, fmt.Sprintf("%d end\n", n)
	case err != nil:
		return false, err
	default:
		head = fmt.Sprintf("%d %010d\n", n, size)
	}
	if _, err := f.WriteAt([]byte(head), 0); err != nil {
		return false, err
	}
	to := fmt.Sprintf("%s/in.%d", p.dir, n%2)
	return over, c.guest.Control(ctx, Call{Verb: "copyto", Args: []string{f.Name(), to}, Urgent: true})
}

// gather writes down what there is of the input, or the next of it. An end or an error
// of the reader is returned by a call of its own.
func (p *plan) gather(ctx context.Context, to io.Writer) (size int, err error) {
	data, err := p.ahead.Take(ctx)
	for err == nil {
		n, failed := to.Write(data)
		if size += n; failed != nil || size+readAhead > maxPiece {
			return size, failed
		}
		more, cancel := context.WithTimeout(ctx, settle)
		data, err = p.ahead.Take(more)
		cancel()
	}
	if size > 0 { // Take says it again
		err = nil
	}
	return size, err
}

// resizeAgain is when a size is passed on again that did not arrive.
const resizeAgain = time.Second

// follow passes on the sizes that the terminal is to have. One that does not arrive,
// because guest control failed, is passed on again, unless a newer one has come.
func (c *Client) follow(ctx context.Context, p *plan) {
	const script = `[ -s "$1/tty" ] || sleep 1
exec stty rows "$2" cols "$3" <"$(cat "$1/tty")" 2>/dev/null
`
	sizes, size, again := p.resize, providers.TerminalSize{}, (<-chan time.Time)(nil)
	for sizes != nil || again != nil {
		select {
		case <-ctx.Done():
			return
		case next, ok := <-sizes:
			if !ok {
				sizes = nil
				continue
			}
			size = next
		case <-again:
		}
		again = nil
		// A guest without stty has a terminal that keeps its size, which is no failure.
		if err := c.stream(ctx, true, script, nil, nil, p.dir, fmt.Sprint(size.Height), fmt.Sprint(size.Width)); err != nil {
			again = time.After(resizeAgain)
		}
	}
}
