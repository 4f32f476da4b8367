package ssh

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	xssh "golang.org/x/crypto/ssh"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/guestio"
	"sandboxd.dev/sandboxd/providers/internal/guestscript"
)

// terminal is what a command gets for its streams.
//
//	one session ──▶ DIR/terminal, a script with its arguments
//	the next ── a terminal and its sizes ──▶ login shell: /bin/sh DIR/terminal
//
// From a terminal no script is read: it would be shown, and cut where a line is
// longer than a terminal takes.
type terminal struct {
	size   providers.TerminalSize // at the beginning; 0 for the guest's choice
	resize <-chan providers.TerminalSize
}

// terminalType is what programs may expect of a terminal.
const terminalType = "xterm"

// errNoTerminal: the server has none for us.
var errNoTerminal = fmt.Errorf("%w: its ssh server makes no terminals: allow them there (PermitTTY of OpenSSH) and mount /dev/pts in the guest, or leave out the terminal (-t)", guestcall.ErrGuestLacks)

// prepareTerminal makes the run of a command at a terminal. ahead is what is typed
// there; nil for the end of input.
func (c *connection) prepareTerminal(ctx context.Context, dir string, req providers.ExecRequest, ahead *guestio.Gather, stdout, _ *guestio.Output) (*run, error) {
	id := guestscript.Token()
	words := slices.Concat([]string{id, dir, req.User, guestscript.Inner, req.Dir, strconv.Itoa(len(req.Env))}, req.Env, req.Command)
	if err := c.lay(ctx, dir, "set -- "+guestscript.Quote(words...)+"\n"+terminalScript); err != nil {
		c.forget(ctx, dir)
		return nil, err
	}
	var in io.Reader = strings.NewReader("")
	if ahead != nil {
		in = ahead.Reader(ctx)
	}
	r := newRun(id, stdout.Deliver, nil)
	r.command, r.tellers = "exec /bin/sh "+dir+"/terminal", 1
	r.in = &typist{ctx: ctx, started: r.started, in: guestio.Typed(in)}
	r.terminal = &terminal{resize: req.Resize}
	select {
	case r.terminal.size = <-req.Resize:
	default:
	}
	return r, nil
}

// lay makes the directory of a command that gets a terminal, with its script.
func (c *connection) lay(ctx context.Context, dir, text string) error {
	const lay = `umask 077; mkdir "$1" 2>/dev/null && cat 2>/dev/null >"$1/terminal" && echo ok`
	var said strings.Builder
	err := c.stream(ctx, lay, strings.NewReader(text), nil, func(p []byte) error {
		said.Write(p[:min(len(p), guestscript.MaxLine-said.Len())])
		return nil
	}, dir)
	if err == nil && said.String() != "ok\n" {
		err = guestscript.Refusal("temp")
	}
	return err
}

// forget removes what was laid for a command that has not come to do so, as far as
// the guest still answers.
func (c *connection) forget(ctx context.Context, dir string) {
	if !c.isLost() {
		_, _ = c.late(ctx, `rm -rf "$1"`, dir)
	}
}

// request asks for the terminal of a session.
func (t *terminal) request(s *xssh.Session) error {
	ok, err := s.SendRequest("pty-req", true, xssh.Marshal(struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}{terminalType, uint32(t.size.Width), uint32(t.size.Height), 0, 0, "\x00"}))
	switch {
	case err != nil:
		return fmt.Errorf("%w: it makes no terminal: %w", guestcall.ErrRefused, err)
	case !ok:
		return errNoTerminal
	}
	return nil
}

// follow passes on the sizes that the terminal is to have from now on.
func (t *terminal) follow(ctx context.Context, s *xssh.Session) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-t.resize:
			if !ok || s.WindowChange(int(size.Height), int(size.Width)) != nil {
				return
			}
		}
	}
}

// unending is the input of a terminal, whose end is typed: some servers take the
// terminal away with it.
type unending struct{ io.Writer }

// Close implements io.Closer.
func (unending) Close() error { return nil }

// typist types once the command is there: what is typed before would be shown with
// what the login shell has to say, and might be for that.
type typist struct {
	ctx     context.Context
	started <-chan struct{}
	in      io.Reader
}

// Read implements io.Reader.
func (t *typist) Read(p []byte) (int, error) {
	select {
	case <-t.started:
		return t.in.Read(p)
	case <-t.ctx.Done():
		return 0, t.ctx.Err()
	}
}
