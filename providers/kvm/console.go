//go:build linux

package kvm

import (
	"context"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/consolelog"
	"sandboxd.dev/sandboxd/providers/internal/keyboard"
)

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
	path := p.data.console(id)
	log := consolelog.Log{
		Path: path, Older: func() ([]string, error) { return rotated(path) }, Over: p.life.Context().Done(),
		Error: func(err error) error { return p.fileError(machineObject(id), err) },
	}
	return log.Open(ctx, opts)
}

// rotated lists the older files of a log, oldest first: those with the highest numbers.
func rotated(path string) ([]string, error) {
	found, err := filepath.Glob(path + ".*")
	if err != nil {
		return nil, err
	}
	age := func(file string) int {
		n, err := strconv.Atoi(strings.TrimPrefix(file, path+"."))
		if err != nil {
			return -1
		}
		return n
	}
	found = slices.DeleteFunc(found, func(file string) bool { return age(file) < 0 })
	slices.SortFunc(found, func(a, b string) int { return age(b) - age(a) })
	return found, nil
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
