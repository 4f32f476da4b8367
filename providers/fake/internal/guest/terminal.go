package guest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"sandboxd.dev/sandboxd/providers/fake/internal/shell"
)

// Terminal is what a person types at and looks at, with the line editing of a
// kernel.
//
//	Type ──▶ line ──echo──▶ shown
//	          └─ at its end ─▶ queue ──Read──▶ programs ──Write──▶ shown
//
// Ctrl-C interrupts what runs, Ctrl-D at the beginning of a line is the end of
// the input, and the backspace takes back.
type Terminal struct {
	shown func([]byte) error

	mu            sync.Mutex
	changed       *sync.Cond
	line, queue   []byte
	ended, closed bool
	interrupts    int // counted, so that each ends the reads under way
	interrupt     func()
	width, height uint16
	raw, silent   bool
}

// maxTyped bounds what is typed ahead, in bytes.
const maxTyped = 64 << 10

// Control characters.
const (
	ctrlC     = 3
	ctrlD     = 4
	backspace = 8
	del       = 127
)

const sigint signal = 2

// NewTerminal makes a terminal of 80 by 24 characters that shows by a function.
func NewTerminal(shown func([]byte) error) *Terminal {
	t := &Terminal{shown: shown, interrupt: func() {}, width: 80, height: 24}
	t.changed = sync.NewCond(&t.mu)
	return t
}

// Resize sets the size in characters.
func (t *Terminal) Resize(width, height uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.width, t.height = width, height
}

// Close ends all reading and typing.
func (t *Terminal) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	t.changed.Broadcast()
}

// Type types. It waits while much that was typed has not been read.
func (t *Terminal) Type(p []byte) error {
	for _, c := range p {
		if err := t.key(c); err != nil {
			return err
		}
	}
	return nil
}

func (t *Terminal) key(c byte) error {
	t.mu.Lock()
	for len(t.queue)+len(t.line) >= maxTyped && !t.closed && c != ctrlC {
		t.changed.Wait()
	}
	if t.closed {
		t.mu.Unlock()
		return io.ErrClosedPipe
	}
	var echo string
	interrupt := func() {}
	switch {
	case t.raw:
		t.queue = append(t.queue, c)
		echo = string(c)
	case c == ctrlC:
		t.line, t.queue = nil, nil
		t.interrupts++
		interrupt, echo = t.interrupt, "^C\r\n"
	case c == ctrlD:
		t.ended = t.ended || len(t.line) == 0
		t.queue, t.line = append(t.queue, t.line...), nil
	case c == '\r' || c == '\n':
		t.queue, t.line = append(append(t.queue, t.line...), '\n'), nil
		echo = "\r\n"
	case c == backspace || c == del:
		if n := len(t.line); n > 0 {
			t.line, echo = t.line[:n-1], "\b \b"
		}
	default:
		t.line, echo = append(t.line, c), string(c)
	}
	if t.silent {
		echo = ""
	}
	t.changed.Broadcast()
	t.mu.Unlock()
	interrupt()
	if echo == "" {
		return nil
	}
	return t.shown([]byte(echo))
}

// End is the end of what is typed: as Ctrl-D, wherever the line is.
func (t *Terminal) End() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queue, t.line, t.ended = append(t.queue, t.line...), nil, true
	t.changed.Broadcast()
}

// Read implements io.Reader, for programs. An end of input is read once.
func (t *Terminal) Read(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for begun := t.interrupts; len(t.queue) == 0; t.changed.Wait() {
		switch {
		case t.closed, begun != t.interrupts:
			return 0, io.ErrClosedPipe
		case t.ended:
			t.ended = false
			return 0, io.EOF
		}
	}
	n := len(p)
	if i := bytes.IndexByte(t.queue, '\n'); i >= 0 {
		n = min(n, i+1)
	}
	n = copy(p[:n], t.queue)
	t.queue = t.queue[n:]
	t.changed.Broadcast()
	return n, nil
}

// Write implements io.Writer, for programs.
func (t *Terminal) Write(p []byte) (int, error) {
	t.mu.Lock()
	raw := t.raw
	t.mu.Unlock()
	shown := p
	if !raw {
		shown = bytes.ReplaceAll(p, []byte("\n"), []byte("\r\n"))
	}
	if err := t.shown(shown); err != nil {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

// terminalOf is the terminal that a program runs at, or nil.
func (c call) terminal() *Terminal {
	t, _ := c.In.(*Terminal)
	return t
}

// stty knows size, rows N, cols N, columns N, echo, raw and sane.
func stty(c call) int {
	t := c.terminal()
	if t == nil {
		return c.fail("standard input: %v", syscall.ENOTTY)
	}
	size, err := t.set(c.Args[1:])
	if err != nil {
		return c.fail("%v", err)
	}
	return c.print(size)
}

func (t *Terminal) set(args []string) (answer string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		switch word {
		case "size":
			answer = fmt.Sprintf("%d %d\n", t.height, t.width)
		case "echo", "-echo":
			t.silent = word == "-echo"
		case "raw", "-raw":
			t.raw = word == "raw"
		case "sane":
			t.raw, t.silent = false, false
		case "rows", "cols", "columns":
			if len(args) == 0 {
				return "", fmt.Errorf("missing argument to %q", word)
			}
			n, err := strconv.ParseUint(args[0], 10, 16)
			if err != nil {
				return "", fmt.Errorf("bad number %q", args[0])
			}
			args = args[1:]
			if word == "rows" {
				t.height = uint16(n)
			} else {
				t.width = uint16(n)
			}
		default:
			return "", fmt.Errorf("argument %q is not supported", word)
		}
	}
	return answer, nil
}

func tty(c call) int {
	if c.terminal() == nil {
		c.print("not a tty\n")
		return 1
	}
	return c.print("/dev/pts/0\n")
}

// interactive runs a shell for somebody who types.
func interactive(c call, cfg shell.Config) int {
	t := c.terminal()
	p := c.process
	p.interactive.Store(true)
	return shell.Interact(c.ctx, p, cfg, func() (string, bool) {
		var line strings.Builder
		buf := make([]byte, 1)
		for c.ctx.Err() == nil {
			switch _, err := t.Read(buf); {
			case errors.Is(err, io.ErrClosedPipe) && !t.isClosed():
				return "", true // interrupted
			case err != nil:
				return "", false
			case buf[0] == '\n':
				return line.String(), true
			}
			line.WriteByte(buf[0])
		}
		return "", false
	})
}

func (t *Terminal) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// interruptSession ends what runs in a session, as Ctrl-C does: all but the
// shells that somebody types at.
func (s *System) interruptSession(session int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.processes {
		if p.session == session && !p.interactive.Load() {
			p.end(sigint)
		}
	}
}

// nc connects to a service of the guest itself: nc HOST PORT.
func nc(c call) int {
	if len(c.Args) != 3 {
		return c.fail("usage: nc HOST PORT")
	}
	serve := Service(c.Args[2])
	if serve == nil {
		return c.fail("%s:%s: %v", c.Args[1], c.Args[2], syscall.ECONNREFUSED)
	}
	if err := serve(c.In, c.Out); err != nil {
		return c.writeFailed(err)
	}
	return 0
}

// Service is what answers on a TCP port of a guest, or nil: an ssh server that
// only greets, on 22, and an echo on 7. It ends with its input.
func Service(port string) func(r io.Reader, w io.Writer) error {
	switch port {
	case "7":
		return func(r io.Reader, w io.Writer) error {
			_, err := io.Copy(w, r)
			return err
		}
	case "22":
		return func(r io.Reader, w io.Writer) error {
			if _, err := io.WriteString(w, "SSH-2.0-fake\r\n"); err != nil {
				return err
			}
			_, err := io.Copy(io.Discard, r)
			return err
		}
	}
	return nil
}
