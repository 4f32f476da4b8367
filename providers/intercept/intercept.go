// Package intercept stands between a provider and its caller.
//
//	caller ──▶ Before ──▶ the provider's method ──▶ After ──▶ caller
//	              │                                   │
//	              ├─ error: the method is not called  ├─ error: its outcome is lost
//	              └─ look, wait, cancel the call      └─ look, wait
//
// Wrap works around any provider. What happens at each point is up to a Hook: it
// may measure, or make things go wrong (see package fault).
package intercept

import (
	"context"
	"io"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// When says on which side of a call a point lies.
type When string

// The sides of a call.
const (
	Before When = "before"
	After  When = "after"
)

// Point is one side of a call.
type Point struct {
	When When
	// Verb is the method of providers.Provider.
	Verb string
	// ID of the machine, the image or the resource; empty where there is none.
	ID string
	// Err is what the method returned, and Took how long it took; After only.
	Err  error
	Took time.Duration
	// Cancel ends the context that the method is given, now or while it runs.
	Cancel context.CancelFunc
}

// Hook decides what happens at a point. An error is returned to the caller
// instead of what the method would return or has returned. A hook is called
// from many goroutines and must return soon after the context has ended.
type Hook func(ctx context.Context, at Point) error

// Chain asks hooks in order until one returns an error.
func Chain(hooks ...Hook) Hook {
	return func(ctx context.Context, at Point) error {
		for _, h := range hooks {
			if err := h(ctx, at); err != nil {
				return err
			}
		}
		return nil
	}
}

// Wrap returns a provider that asks hook before and after each call of p that
// can fail. Name, Events and Close are passed on.
func Wrap(p providers.Provider, hook Hook) providers.Provider {
	return &provider{p, hook}
}

type provider struct {
	p    providers.Provider
	hook Hook
}

// call makes one call with its two points.
func call[T any](ctx context.Context, p *provider, verb, id string, f func(ctx context.Context) (T, error)) (T, error) {
	var none T
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	at := Point{When: Before, Verb: verb, ID: id, Cancel: cancel}
	if err := p.hook(ctx, at); err != nil {
		return none, err
	}
	began := time.Now()
	got, err := f(inner)
	at.When, at.Err, at.Took = After, err, time.Since(began)
	if err := p.hook(ctx, at); err != nil {
		return none, err
	}
	return got, err
}

// do is call for methods that return an error only.
func do(ctx context.Context, p *provider, verb, id string, f func(ctx context.Context) error) error {
	_, err := call(ctx, p, verb, id, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, f(ctx)
	})
	return err
}

func (p *provider) Name() v1.ProviderName { return p.p.Name() }

func (p *provider) Events(ctx context.Context) <-chan providers.Event { return p.p.Events(ctx) }

func (p *provider) Close() error { return p.p.Close() }

func (p *provider) Probe(ctx context.Context) (providers.Info, error) {
	return call(ctx, p, "Probe", "", p.p.Probe)
}

func (p *provider) CheckSource(ctx context.Context, spec providers.ImageSpec) error {
	return do(ctx, p, "CheckSource", spec.String(), func(ctx context.Context) error {
		return p.p.CheckSource(ctx, spec)
	})
}

func (p *provider) ImportImage(ctx context.Context, spec providers.ImageSpec,
	progress func(providers.Progress),
) (providers.Image, error) {
	return call(ctx, p, "ImportImage", spec.String(), func(ctx context.Context) (providers.Image, error) {
		return p.p.ImportImage(ctx, spec, progress)
	})
}

func (p *provider) GetImage(ctx context.Context, ref providers.ImageRef) (providers.Image, error) {
	return call(ctx, p, "GetImage", ref.String(), func(ctx context.Context) (providers.Image, error) {
		return p.p.GetImage(ctx, ref)
	})
}

func (p *provider) DeleteImage(ctx context.Context, ref providers.ImageRef) error {
	return do(ctx, p, "DeleteImage", ref.String(), func(ctx context.Context) error {
		return p.p.DeleteImage(ctx, ref)
	})
}

func (p *provider) EnsureMachine(ctx context.Context, spec providers.MachineSpec) error {
	return do(ctx, p, "EnsureMachine", string(spec.ID), func(ctx context.Context) error {
		return p.p.EnsureMachine(ctx, spec)
	})
}

func (p *provider) GetMachine(ctx context.Context, id types.UID) (providers.Machine, error) {
	return call(ctx, p, "GetMachine", string(id), func(ctx context.Context) (providers.Machine, error) {
		return p.p.GetMachine(ctx, id)
	})
}

func (p *provider) Start(ctx context.Context, id types.UID) error {
	return do(ctx, p, "Start", string(id), func(ctx context.Context) error {
		return p.p.Start(ctx, id)
	})
}

func (p *provider) Stop(ctx context.Context, id types.UID, mode providers.StopMode) error {
	return do(ctx, p, "Stop", string(id), func(ctx context.Context) error {
		return p.p.Stop(ctx, id, mode)
	})
}

func (p *provider) Suspend(ctx context.Context, id types.UID) error {
	return do(ctx, p, "Suspend", string(id), func(ctx context.Context) error {
		return p.p.Suspend(ctx, id)
	})
}

func (p *provider) Reset(ctx context.Context, id types.UID) error {
	return do(ctx, p, "Reset", string(id), func(ctx context.Context) error {
		return p.p.Reset(ctx, id)
	})
}

func (p *provider) DeleteMachine(ctx context.Context, id types.UID) error {
	return do(ctx, p, "DeleteMachine", string(id), func(ctx context.Context) error {
		return p.p.DeleteMachine(ctx, id)
	})
}

func (p *provider) TakeSnapshot(ctx context.Context, spec providers.SnapshotSpec) (providers.Snapshot, error) {
	return call(ctx, p, "TakeSnapshot", spec.String(), func(ctx context.Context) (providers.Snapshot, error) {
		return p.p.TakeSnapshot(ctx, spec)
	})
}

func (p *provider) GetSnapshot(ctx context.Context, ref providers.SnapshotRef) (providers.Snapshot, error) {
	return call(ctx, p, "GetSnapshot", ref.String(), func(ctx context.Context) (providers.Snapshot, error) {
		return p.p.GetSnapshot(ctx, ref)
	})
}

func (p *provider) RevertMachine(ctx context.Context, ref providers.SnapshotRef) error {
	return do(ctx, p, "RevertMachine", ref.String(), func(ctx context.Context) error {
		return p.p.RevertMachine(ctx, ref)
	})
}

func (p *provider) DeleteSnapshot(ctx context.Context, ref providers.SnapshotRef) error {
	return do(ctx, p, "DeleteSnapshot", ref.String(), func(ctx context.Context) error {
		return p.p.DeleteSnapshot(ctx, ref)
	})
}

func (p *provider) OpenDisk(ctx context.Context, ref providers.DiskRef) (providers.Disk, error) {
	return call(ctx, p, "OpenDisk", ref.String(), func(ctx context.Context) (providers.Disk, error) {
		return p.p.OpenDisk(ctx, ref)
	})
}

func (p *provider) Exec(ctx context.Context, id types.UID, req providers.ExecRequest) (providers.ExecResult, error) {
	return call(ctx, p, "Exec", string(id), func(ctx context.Context) (providers.ExecResult, error) {
		return p.p.Exec(ctx, id, req)
	})
}

func (p *provider) WriteFile(ctx context.Context, id types.UID, path string, mode uint32, r io.Reader) error {
	return do(ctx, p, "WriteFile", string(id), func(ctx context.Context) error {
		return p.p.WriteFile(ctx, id, path, mode, r)
	})
}

func (p *provider) ReadFile(ctx context.Context, id types.UID, path string, w io.Writer) (providers.FileInfo, error) {
	return call(ctx, p, "ReadFile", string(id), func(ctx context.Context) (providers.FileInfo, error) {
		return p.p.ReadFile(ctx, id, path, w)
	})
}

func (p *provider) ConfigureGuest(ctx context.Context, id types.UID, cfg providers.GuestConfig) error {
	return do(ctx, p, "ConfigureGuest", string(id), func(ctx context.Context) error {
		return p.p.ConfigureGuest(ctx, id, cfg)
	})
}

// Console gives its reader the caller's own context, because it outlives the
// call.
func (p *provider) Console(ctx context.Context, id types.UID, opts providers.ConsoleOptions) (io.ReadCloser, error) {
	return call(ctx, p, "Console", string(id), func(context.Context) (io.ReadCloser, error) {
		return p.p.Console(ctx, id, opts)
	})
}

// TypeAtConsole, too.
func (p *provider) TypeAtConsole(ctx context.Context, id types.UID) (io.WriteCloser, error) {
	return call(ctx, p, "TypeAtConsole", string(id), func(context.Context) (io.WriteCloser, error) {
		return p.p.TypeAtConsole(ctx, id)
	})
}

func (p *provider) ListResources(ctx context.Context) ([]providers.Resource, error) {
	return call(ctx, p, "ListResources", "", p.p.ListResources)
}

func (p *provider) RemoveResource(ctx context.Context, r providers.Resource) error {
	return do(ctx, p, "RemoveResource", string(r.Kind)+" "+r.ID, func(ctx context.Context) error {
		return p.p.RemoveResource(ctx, r)
	})
}
