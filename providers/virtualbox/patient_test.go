package virtualbox_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/virtualbox"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
	"sandboxd.dev/sandboxd/test/private"
)

// patient is a caller that tries again, as callers have to, when VirtualBox's service
// ended during a call, or VBoxManage itself: on a busy host VBoxSVC 7.2 was seen to crash, in one of its
// own threads, while clients of it came and went.
type patient struct {
	*virtualbox.Provider
	t testing.TB
}

// crashes is how often in a row the service may end during one call.
const crashes = 5

func (p patient) again(ctx context.Context, call func() error) error {
	for n := 0; ; n++ {
		err := call()
		var f *vboxmanage.Failure
		if !errors.As(err, &f) || !f.Died() && !f.Unreached || n == crashes || ctx.Err() != nil {
			return err
		}
		if f.Exit < 0 {
			private.Crashed(p.t, err.Error())
		}
		p.t.Logf("tried again: %v", err)
		time.Sleep(time.Second)
	}
}

func (p patient) ImportImage(ctx context.Context, spec providers.ImageSpec, report func(providers.Progress)) (img providers.Image, err error) {
	err = p.again(ctx, func() error {
		img, err = p.Provider.ImportImage(ctx, spec, report)
		return err
	})
	return img, err
}

func (p patient) EnsureMachine(ctx context.Context, spec providers.MachineSpec) error {
	return p.again(ctx, func() error { return p.Provider.EnsureMachine(ctx, spec) })
}

func (p patient) GetMachine(ctx context.Context, id types.UID) (m providers.Machine, err error) {
	err = p.again(ctx, func() error {
		m, err = p.Provider.GetMachine(ctx, id)
		return err
	})
	return m, err
}

func (p patient) Start(ctx context.Context, id types.UID) error {
	return p.again(ctx, func() error { return p.Provider.Start(ctx, id) })
}

func (p patient) Stop(ctx context.Context, id types.UID, mode providers.StopMode) error {
	return p.again(ctx, func() error { return p.Provider.Stop(ctx, id, mode) })
}

func (p patient) Suspend(ctx context.Context, id types.UID) error {
	return p.again(ctx, func() error { return p.Provider.Suspend(ctx, id) })
}

func (p patient) Reset(ctx context.Context, id types.UID) error {
	return p.again(ctx, func() error { return p.Provider.Reset(ctx, id) })
}

func (p patient) DeleteMachine(ctx context.Context, id types.UID) error {
	return p.again(ctx, func() error { return p.Provider.DeleteMachine(ctx, id) })
}

func (p patient) DeleteImage(ctx context.Context, ref providers.ImageRef) error {
	return p.again(ctx, func() error { return p.Provider.DeleteImage(ctx, ref) })
}

func (p patient) ListResources(ctx context.Context) (list []providers.Resource, err error) {
	err = p.again(ctx, func() error {
		list, err = p.Provider.ListResources(ctx)
		return err
	})
	return list, err
}

func (p patient) TakeSnapshot(ctx context.Context, spec providers.SnapshotSpec) (s providers.Snapshot, err error) {
	err = p.again(ctx, func() error {
		s, err = p.Provider.TakeSnapshot(ctx, spec)
		return err
	})
	return s, err
}

func (p patient) RevertMachine(ctx context.Context, ref providers.SnapshotRef) error {
	return p.again(ctx, func() error { return p.Provider.RevertMachine(ctx, ref) })
}

func (p patient) DeleteSnapshot(ctx context.Context, ref providers.SnapshotRef) error {
	return p.again(ctx, func() error { return p.Provider.DeleteSnapshot(ctx, ref) })
}

func (p patient) OpenDisk(ctx context.Context, ref providers.DiskRef) (d providers.Disk, err error) {
	err = p.again(ctx, func() error {
		d, err = p.Provider.OpenDisk(ctx, ref)
		return err
	})
	return d, err
}
