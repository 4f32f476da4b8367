package virtualbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

// consolePoll is how often a followed log is looked at.
const consolePoll = 100 * time.Millisecond

// Console implements providers.Guests. Of a long log only the latest output is
// kept.
func (p *Provider) Console(ctx context.Context, id types.UID, opts providers.ConsoleOptions) (io.ReadCloser, error) {
	if err := p.ready(ctx); err != nil {
		return nil, err
	}
	if _, err := p.look(ctx, id); err != nil {
		return nil, err
	}
	c := &console{ctx: ctx, end: p.life.Context(), path: p.data.console(id), follow: opts.Follow}
	if err := c.open(opts.TailBytes); err != nil {
		_ = c.Close()
		return nil, p.fileError(machineObject(id), err)
	}
	return c, nil
}

// console reads a log that somebody else writes to: its parts one after the other,
// and what comes after the last.
type console struct {
	ctx, end context.Context
	path     string
	follow   bool
	files    []*os.File // the last is the one that may grow
}

// open opens the log, at most tail bytes before its end if that is not negative. One
// that nobody has written yet is empty.
func (c *console) open(tail int64) error {
	for _, path := range consoleParts(c.path) {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		c.files = append(c.files, f)
	}
	for i := len(c.files) - 1; i >= 0; i-- {
		begin, end, err := extent(c.files[i])
		if err != nil {
			return err
		}
		if tail >= 0 {
			begin = max(begin, end-tail)
			tail -= end - begin
		}
		if _, err := c.files[i].Seek(begin, io.SeekStart); err != nil {
			return err
		}
	}
	return nil
}

// Read implements io.Reader.
func (c *console) Read(b []byte) (int, error) {
	for {
		if err := c.ctx.Err(); err != nil {
			return 0, err
		}
		for len(c.files) > 0 {
			n, err := c.files[0].Read(b)
			if n > 0 {
				return n, nil
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return 0, fmt.Errorf("console log: %w", err)
			}
			if len(c.files) == 1 {
				break
			}
			_ = c.files[0].Close()
			c.files = c.files[1:]
		}
		if !c.follow {
			return 0, io.EOF
		}
		if err := c.next(); err != nil {
			return 0, err
		}
	}
}

// next waits a little and looks whether the log goes on in a new file, as it does when
// the machine starts and when nobody types any more, or was begun anew by somebody
// else. io.EOF when the machine is gone.
func (c *console) next() error {
	if err := c.wait(); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Dir(c.path)); errors.Is(err, fs.ErrNotExist) {
		return io.EOF
	}
	if len(c.files) == 0 {
		return c.open(-1)
	}
	f, err := os.Open(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it goes on in the file that is open
	}
	if err != nil {
		return err
	}
	was, err1 := c.files[0].Stat()
	now, err2 := f.Stat()
	switch err := errors.Join(err1, err2); {
	case err != nil:
		return errors.Join(err, f.Close())
	case !os.SameFile(was, now):
		c.files = append(c.files, f)
		return c.wait() // for what comes last to the one before
	}
	if err := f.Close(); err != nil {
		return err
	}
	at, err := c.files[0].Seek(0, io.SeekCurrent)
	if err != nil || was.Size() >= at {
		return err
	}
	_, err = c.files[0].Seek(0, io.SeekStart)
	return err
}

func (c *console) wait() error {
	t := time.NewTimer(consolePoll)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	case <-c.end.Done():
		return io.EOF
	}
}

// Close implements io.Closer.
func (c *console) Close() error {
	var errs []error
	for _, f := range c.files {
		errs = append(errs, f.Close())
	}
	c.files = nil
	return errors.Join(errs...)
}
