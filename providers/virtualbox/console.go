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

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

const (
	// consolePoll is how often a followed log is looked at.
	consolePoll = 100 * time.Millisecond
	// consoleKeeps is how much of a console's log is kept, and consoleTrims how
	// much more makes it be trimmed, in bytes.
	consoleKeeps = 4 << 20
	consoleTrims = 4 << 20
)

// trimConsoles frees the space of old console output, so that a guest cannot fill
// the host's disk with it. VirtualBox writes on where it was, so the log becomes
// a file with a hole at its beginning.
func (p *Provider) trimConsoles(on map[types.UID]bool) {
	for id := range on {
		if err := trimConsole(p.data.console(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			p.log.Info("a console's log cannot be trimmed", "machine", id, "error", err.Error())
		}
	}
}

func trimConsole(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Blocks*512 < consoleKeeps+consoleTrims {
		return nil
	}
	const block = 1 << 16
	return punchHole(f, (st.Size-consoleKeeps)&^(block-1))
}

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
	err := c.open()
	if err == nil && c.file != nil {
		err = c.seek(opts.TailBytes)
	}
	if err != nil {
		_ = c.Close()
		return nil, p.fileError(machineObject(id), err)
	}
	return c, nil
}

// TypeAtConsole implements providers.Guests: a console is a file.
func (p *Provider) TypeAtConsole(ctx context.Context, id types.UID) (io.WriteCloser, error) {
	if err := p.ready(ctx); err != nil {
		return nil, err
	}
	if _, err := p.look(ctx, id); err != nil {
		return nil, err
	}
	return nil, providers.Errorf(providers.ErrUnsupported, machineObject(id), "its serial console can only be read: leave out the input (-i), and use exec for a shell")
}

// console reads a log that somebody else writes to.
type console struct {
	ctx, end context.Context
	path     string
	follow   bool
	file     *os.File // nil until there is one
}

// open opens the log. One that nobody has written yet is empty.
func (c *console) open() (err error) {
	if c.file, err = os.Open(c.path); errors.Is(err, fs.ErrNotExist) {
		c.file, err = nil, nil
	}
	return err
}

// seek passes over the hole at the beginning and leaves at most tail bytes to
// read, if that is not negative.
func (c *console) seek(tail int64) error {
	size, err := c.file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	begin, err := unix.Seek(int(c.file.Fd()), 0, unix.SEEK_DATA)
	if err != nil { // ENXIO: there is nothing but the hole
		begin = size
	}
	if tail >= 0 {
		begin = max(begin, size-tail)
	}
	_, err = c.file.Seek(begin, io.SeekStart)
	return err
}

// Read implements io.Reader.
func (c *console) Read(b []byte) (int, error) {
	for {
		if err := c.ctx.Err(); err != nil {
			return 0, err
		}
		if c.file != nil {
			n, err := c.file.Read(b)
			if n > 0 {
				return n, nil
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return 0, fmt.Errorf("console log: %w", err)
			}
		}
		if !c.follow {
			return 0, io.EOF
		}
		if err := c.next(); err != nil {
			return 0, err
		}
	}
}

// next waits a little and looks whether the log has begun, or begun anew, as it
// does when its machine starts. io.EOF when the machine is gone.
func (c *console) next() error {
	t := time.NewTimer(consolePoll)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.ctx.Done():
		return c.ctx.Err()
	case <-c.end.Done():
		return io.EOF
	}
	if _, err := os.Lstat(filepath.Dir(c.path)); errors.Is(err, fs.ErrNotExist) {
		return io.EOF
	}
	if c.file == nil {
		return c.open()
	}
	at, err := c.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if info, err := c.file.Stat(); err != nil || info.Size() >= at {
		return err
	}
	_, err = c.file.Seek(0, io.SeekStart)
	return err
}

// Close implements io.Closer.
func (c *console) Close() error {
	if c.file == nil {
		return nil
	}
	err := c.file.Close()
	c.file = nil
	return err
}
