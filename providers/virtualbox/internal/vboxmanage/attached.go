package vboxmanage

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// pipeSize is no less than a pipe holds, in bytes: 64 KiB on Linux, where nobody
// makes it larger, and on macOS.
const pipeSize = 64 << 10

// errUnread: the caller's writers did not take in time what a process had written
// that was ended.
var errUnread = errors.New("its output was not taken")

// runAttached runs a command and passes on all that it writes until it ends. What
// it has started and left behind may keep its streams open: VBoxSVC does. (Wait of
// os/exec waits for that, or else loses output where the host stands still for as
// long as its WaitDelay.)
//
// It returns once the writers have everything, or were given killAfter since the
// context's end. They may be in use after errUnread alone.
func runAttached(ctx context.Context, cmd *exec.Cmd, stdout, stderr io.Writer) error {
	out, err := pass(stdout)
	if err != nil {
		return err
	}
	errs, err := pass(stderr)
	if err != nil {
		out.drop()
		return err
	}
	cmd.Stdout, cmd.Stderr = out.there, errs.there
	err = cmd.Start()
	if err != nil {
		out.drop()
		errs.drop()
		return err
	}
	_ = out.there.Close()
	_ = errs.there.Close()
	err = cmd.Wait()
	return errors.Join(err, out.end(ctx), errs.end(ctx))
}

// stream passes on what a process writes.
type stream struct {
	here, there *os.File
	over        chan error // one: of the writer
}

func pass(to io.Writer) (*stream, error) {
	here, there, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s := &stream{here: here, there: there, over: make(chan error, 1)}
	go func() {
		err := s.copy(to)
		_ = s.here.Close() // a process that goes on is told by SIGPIPE
		s.over <- err
	}()
	return s, nil
}

// drop ends a stream that was given to nobody.
func (s *stream) drop() {
	_ = s.there.Close()
	<-s.over //nolint:errcheck // nothing was written
}

// end waits until all that a process wrote which has ended was passed on.
func (s *stream) end(ctx context.Context) error {
	_ = s.here.SetReadDeadline(time.Now()) // fails when the stream is over
	select {
	case err := <-s.over:
		return err
	case <-ctx.Done():
	}
	t := time.NewTimer(killAfter)
	defer t.Stop()
	select {
	case err := <-s.over:
		return err
	case <-t.C:
		return errUnread
	}
}

// copy passes on what comes until the other side is closed or a deadline says that
// no more will come, and then what is there.
func (s *stream) copy(to io.Writer) error {
	if _, err := io.Copy(to, s.here); !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if err := s.here.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	raw, err := s.here.SyscallConn()
	if err != nil {
		return err
	}
	// No more than a pipe holds: what was left behind may write without end.
	for buf, left := make([]byte, 32<<10), pipeSize; left > 0; {
		var n int
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			for {
				if n, failed = syscall.Read(int(fd), buf); !errors.Is(failed, syscall.EINTR) {
					return true
				}
			}
		})
		switch {
		case err != nil:
			return err
		case n <= 0: // nothing is there, or the end
			return nil
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return err
		}
		left -= n
	}
	return nil
}
