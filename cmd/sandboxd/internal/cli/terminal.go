package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"sandboxd.dev/sandboxd/client"
)

// takeTerminal makes the terminal that we are used at pass everything on as it is
// typed, until restore is called. sizes tells its size, now and when it changes.
// ok is false, and said why, when our input is no terminal, or is not passed on (stdin
// is false): no key would do anything then, not even one that ends it.
func (a *app) takeTerminal(stdin bool) (sizes <-chan client.TerminalSize, restore func(), ok bool, err error) {
	if !stdin {
		fmt.Fprintln(a.Err, "warning: nothing that is typed is passed on without -i: -t is left out")
		return nil, nil, false, nil
	}
	f, isFile := a.In.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		fmt.Fprintln(a.Err, "warning: standard input is no terminal, so the command gets none: -t is left out")
		return nil, nil, false, nil
	}
	before, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, nil, false, fmt.Errorf("the terminal cannot be taken over: %w", err)
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	changed <- syscall.SIGWINCH // its size now
	out, over := make(chan client.TerminalSize), make(chan struct{})
	go func() {
		for {
			select {
			case <-over:
				return
			case <-changed:
			}
			width, height, err := term.GetSize(int(f.Fd()))
			if err != nil || width <= 0 || height <= 0 {
				continue
			}
			select {
			case out <- client.TerminalSize{Width: uint16(width), Height: uint16(height)}:
			case <-over:
				return
			}
		}
	}()
	return out, func() {
		signal.Stop(changed)
		close(over)
		_ = term.Restore(int(f.Fd()), before)
	}, true, nil
}

// leaveKey is Ctrl-], which leaves a console.
const leaveKey = 0x1d

// errLeft: the user has left a console.
var errLeft = errors.New("the console was left")

// leaving is what is typed at a console, until the key that leaves it.
type leaving struct {
	r    io.Reader
	left func()
}

// Read implements io.Reader.
func (l leaving) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	for i, c := range p[:n] {
		if c == leaveKey {
			l.left()
			return i, errLeft
		}
	}
	return n, err
}
