//go:build linux

package kvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/keyboard"
)

// consolePoll is how often a followed log is looked at.
const consolePoll = 100 * time.Millisecond

// Console implements providers.Guests. virtlogd writes the log and rotates it
// (by default at 2 MiB, keeping three older files), so a guest cannot fill the
// host's disk with it, and only the latest output is kept.
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

// TypeAtConsole implements providers.Guests. libvirt lets one type at a time, so all
// who type here share that.
func (p *Provider) TypeAtConsole(ctx context.Context, id types.UID) (io.WriteCloser, error) {
	if err := p.ready(ctx); err != nil {
		return nil, err
	}
	return p.keys.Join(ctx, id, func(ctx context.Context) (keyboard.Line, error) {
		m, err := p.look(ctx, id)
		switch {
		case err != nil:
			return nil, err
		case m.power != providers.PowerRunning:
			return nil, providers.Errorf(providers.ErrBusy, machineObject(id), "it is %s: nobody would read what is typed", m.power)
		case !m.live.Terminal:
			return nil, providers.Errorf(providers.ErrUnsupported, machineObject(id),
				"its serial console can only be read until it is stopped and started, because it runs as an earlier release made it: leave out the input (-i), and use exec for a shell")
		}
		return p.conn.OpenKeyboard(ctx, machineObject(id), libvirtDomain(id))
	})
}

// console reads a rotated log: older files first, then the current one, which
// it may follow through further rotations.
type console struct {
	ctx, end context.Context
	path     string
	follow   bool

	files   []*os.File // older ones, oldest first, and the current one last
	current bool       // the last of files is the one being written to
}

// open opens the files there are. A log that nobody has written yet is empty.
func (c *console) open(tail int64) error {
	older, err := filepath.Glob(c.path + ".*")
	if err != nil {
		return err
	}
	age := func(p string) int {
		n, err := strconv.Atoi(strings.TrimPrefix(p, c.path+"."))
		if err != nil {
			return -1
		}
		return n
	}
	older = slices.DeleteFunc(older, func(p string) bool { return age(p) < 0 })
	slices.SortFunc(older, func(a, b string) int { return age(b) - age(a) })
	for _, p := range append(older, c.path) {
		f, err := os.Open(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		c.files = append(c.files, f)
		c.current = p == c.path
	}
	if tail >= 0 {
		return c.skip(tail)
	}
	return nil
}

// skip leaves at most tail bytes to read.
func (c *console) skip(tail int64) error {
	for i := len(c.files) - 1; i >= 0; i-- {
		size, err := c.files[i].Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		keep := min(tail, size)
		tail -= keep
		if _, err := c.files[i].Seek(size-keep, io.SeekStart); err != nil {
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
			if len(c.files) == 1 && c.current {
				break
			}
			_ = c.files[0].Close()
			c.files = c.files[1:]
		}
		if !c.follow {
			return 0, io.EOF
		}
		more, err := c.next()
		if err != nil {
			return 0, err
		}
		if more {
			continue
		}
		if err := c.wait(); err != nil {
			return 0, err
		}
	}
}

// next finds out whether the log was rotated or has begun, and tells whether
// there may be more to read at once. io.EOF when the machine is gone.
func (c *console) next() (bool, error) {
	f, err := os.Open(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(filepath.Dir(c.path)); errors.Is(err, fs.ErrNotExist) {
			return false, io.EOF
		}
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("console log: %w", err)
	}
	if len(c.files) > 0 {
		was, err1 := c.files[0].Stat()
		now, err2 := f.Stat()
		if err1 != nil || err2 != nil || os.SameFile(was, now) {
			_ = f.Close()
			return false, errors.Join(err1, err2)
		}
	}
	c.files = append(c.files, f)
	c.current = true
	return true, nil
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
