package fake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"syscall"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake/internal/guest"
	"sandboxd.dev/sandboxd/providers/internal/keyboard"
)

// connection is a way into a running guest.
type connection struct {
	system *guest.System
	lost   <-chan struct{}
	spec   providers.MachineSpec
}

// reach connects to a guest.
func (p *Provider) reach(ctx context.Context, id types.UID) (c connection, err error) {
	err = p.look(ctx, func() error {
		m := p.own(id)
		switch {
		case m == nil:
			return errNoMachine(id)
		case m.power != providers.PowerRunning:
			return providers.Errorf(providers.ErrBusy, machineObject(id),
				"it is %s: start it to reach its guest", m.power)
		case m.link == nil:
			return errNoAgent(id)
		}
		c = connection{m.system, m.link, m.runningSpec}
		return nil
	})
	return c, err
}

func errNoAgent(id types.UID) error {
	return providers.Errorf(providers.ErrUnavailable, machineObject(id),
		"its guest agent is not connected or does not answer")
}

// guestError gives an error of the guest a kind.
func guestError(id types.UID, err error) error {
	kind := providers.ErrInvalid
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOENT), errors.Is(err, guest.ErrNoProgram):
		kind = providers.ErrNotFound
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EAGAIN):
		kind = providers.ErrCapacity
	case errors.Is(err, guest.ErrHalted):
		kind = providers.ErrUnavailable
	}
	return providers.Errorf(kind, machineObject(id), "%w", err)
}

func checkPath(id types.UID, name string) error {
	if !path.IsAbs(name) || strings.ContainsRune(name, 0) {
		return providers.Errorf(providers.ErrInvalid, machineObject(id),
			"path %q is not an absolute path", name)
	}
	return nil
}

// maxFile bounds a file that is written or read, in bytes: guests live in the
// memory of this process.
const maxFile = 256 << 20

// WriteFile implements providers.Guests.
func (p *Provider) WriteFile(ctx context.Context, id types.UID, name string, mode uint32, r io.Reader) error {
	c, err := p.reach(ctx, id)
	if err != nil {
		return err
	}
	if err := checkPath(id, name); err != nil {
		return err
	}
	if mode&^0o777 != 0 {
		return providers.Errorf(providers.ErrInvalid, machineObject(id),
			"mode %#o of %q has more than permission bits", mode, name)
	}
	if info, err := c.system.Stat(path.Dir(path.Clean(name))); err != nil {
		return guestError(id, fmt.Errorf("directory of %q: %w", name, err))
	} else if !info.Dir {
		return guestError(id, fmt.Errorf("directory of %q: %w", name, syscall.ENOTDIR))
	}
	if info, err := c.system.Stat(name); err == nil && info.Dir {
		return guestError(id, fmt.Errorf("%q: %w", name, syscall.EISDIR))
	}
	data, err := io.ReadAll(io.LimitReader(contextReader{ctx, c.lost, id, r}, maxFile+1))
	if err != nil {
		return ownError(id, err, fmt.Sprintf("what was to be written to %q", name))
	}
	if len(data) > maxFile {
		return guestError(id, fmt.Errorf("%q: more than %d bytes: %w", name, maxFile, syscall.ENOSPC))
	}
	if err := c.system.WriteFile(name, mode, data); err != nil {
		return guestError(id, fmt.Errorf("%q: %w", name, err))
	}
	return nil
}

// ownError returns errors that have a kind or are the context's as they are,
// and wraps those of the caller's reader or writer.
func ownError(id types.UID, err error, what string) error {
	if providers.KindOf(err) != nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%s: %s: %w", machineObject(id), what, err)
}

// contextReader ends with the context or the connection.
type contextReader struct {
	ctx  context.Context
	lost <-chan struct{}
	id   types.UID
	r    io.Reader
}

// Read implements io.Reader.
func (r contextReader) Read(p []byte) (int, error) {
	select {
	case <-r.ctx.Done():
		return 0, r.ctx.Err()
	case <-r.lost:
		return 0, errNoAgent(r.id)
	default:
		return r.r.Read(p)
	}
}

// ReadFile implements providers.Guests.
func (p *Provider) ReadFile(ctx context.Context, id types.UID, name string, w io.Writer) (providers.FileInfo, error) {
	c, err := p.reach(ctx, id)
	if err != nil {
		return providers.FileInfo{}, err
	}
	if err := checkPath(id, name); err != nil {
		return providers.FileInfo{}, err
	}
	data, info, err := c.system.ReadFile(name)
	if err != nil {
		return providers.FileInfo{}, guestError(id, fmt.Errorf("%q: %w", name, err))
	}
	const chunk = 64 << 10
	for part := range slices.Chunk(data, chunk) {
		if err := ctx.Err(); err != nil {
			return providers.FileInfo{}, err
		}
		if _, err := w.Write(part); err != nil {
			return providers.FileInfo{}, ownError(id, err, fmt.Sprintf("what was read of %q", name))
		}
	}
	return providers.FileInfo{Size: int64(len(data)), Mode: info.Mode}, nil
}

// ConfigureGuest implements providers.Guests.
func (p *Provider) ConfigureGuest(ctx context.Context, id types.UID, cfg providers.GuestConfig) error {
	c, err := p.reach(ctx, id)
	if err != nil {
		return err
	}
	for _, f := range cfg.Mounts {
		if !slices.ContainsFunc(c.spec.SharedFolders, func(o v1.SharedFolder) bool {
			return o.Name == f.Name && o.HostPath == f.HostPath && o.IsReadOnly() == f.IsReadOnly()
		}) {
			return providers.Errorf(providers.ErrInvalid, machineObject(id),
				"shared folder %q: the machine was not started with it", f.Name)
		}
	}
	if err := checkKeys(id, cfg); err != nil {
		return err
	}
	if cfg.User != "" {
		if err := c.system.Authorize(cfg.User, cfg.SSHAuthorizedKeys); err != nil {
			return guestError(id, fmt.Errorf("ssh keys of user %q: %w", cfg.User, err))
		}
	}
	for _, f := range cfg.Mounts {
		if err := c.system.Mount(f.GuestPath(), f.HostPath, f.IsReadOnly()); err != nil {
			return guestError(id, fmt.Errorf("shared folder %q: %w", f.Name, err))
		}
	}
	return nil
}

func checkKeys(id types.UID, cfg providers.GuestConfig) error {
	if cfg.User == "" && len(cfg.SSHAuthorizedKeys) > 0 {
		return providers.Errorf(providers.ErrInvalid, machineObject(id), "there are ssh keys but no user")
	}
	for _, k := range cfg.SSHAuthorizedKeys {
		if strings.ContainsAny(k, "\r\n") {
			return providers.Errorf(providers.ErrInvalid, machineObject(id), "ssh key %q is not one line", k)
		}
	}
	return nil
}

// Console implements providers.Guests.
func (p *Provider) Console(ctx context.Context, id types.UID, o providers.ConsoleOptions) (r io.ReadCloser, err error) {
	err = p.look(ctx, func() error {
		if p.own(id) == nil {
			return errNoMachine(id)
		}
		pt := p.folder().partsOf(id)
		if pt.log == nil {
			pt.log = newConsole() // others took it away
		}
		r = pt.log.reader(ctx, o.TailBytes, o.Follow)
		return nil
	})
	return r, err
}

// TypeAtConsole implements providers.Guests. All who type talk to one shell, and to
// the next one when that has ended.
func (p *Provider) TypeAtConsole(ctx context.Context, id types.UID) (io.WriteCloser, error) {
	if err := p.look(ctx, func() error { return nil }); err != nil {
		return nil, err
	}
	return p.keys.Join(ctx, id, func(ctx context.Context) (keyboard.Line, error) { return p.openLine(ctx, id) })
}

// openLine starts a shell at a console.
func (p *Provider) openLine(ctx context.Context, id types.UID) (keyboard.Line, error) {
	var log *console
	var system *guest.System
	err := p.look(ctx, func() error {
		m := p.own(id)
		switch {
		case m == nil:
			return errNoMachine(id)
		case m.power != providers.PowerRunning || m.system == nil:
			return providers.Errorf(providers.ErrBusy, machineObject(id), "it is %s: nobody would read what is typed", m.power)
		}
		pt := p.folder().partsOf(id)
		if pt.log == nil {
			pt.log = newConsole() // others took it away
		}
		log, system = pt.log, m.system
		return nil
	})
	if err != nil {
		return nil, err
	}
	terminal := guest.NewTerminal(func(b []byte) error {
		_, err := log.Write(b)
		return err
	})
	job, err := system.Start(guest.Command{Args: []string{"sh"}, Terminal: terminal})
	if err != nil {
		return nil, startError(id, err)
	}
	return consoleShell{terminal, job}, nil
}

// consoleShell is the shell at a console.
type consoleShell struct {
	terminal *guest.Terminal
	job      *guest.Job
}

// Write implements io.Writer.
func (s consoleShell) Write(b []byte) (int, error) {
	if err := s.terminal.Type(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Ended implements keyboard.Line.
func (s consoleShell) Ended() <-chan struct{} { return s.job.Done() }

// Close implements io.Closer.
func (s consoleShell) Close() error {
	s.job.Kill()
	return nil
}
