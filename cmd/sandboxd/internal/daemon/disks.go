package daemon

import (
	"context"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/disk/worker"
	"sandboxd.dev/sandboxd/guest/access"
)

// disks reads disks in processes that have no rights.
func (u *imageUsers) disks() *access.Disks {
	return &access.Disks{
		Reader: worker.New(worker.Options{}),
		Snapshot: func(ctx context.Context, namespace, name string) (*v1.SandboxSnapshot, error) {
			snap := &v1.SandboxSnapshot{}
			return snap, u.reader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, snap)
		},
		Image: func(ctx context.Context, name string) (*v1.GoldenImage, error) {
			img := &v1.GoldenImage{}
			return img, u.reader.Get(ctx, types.NamespacedName{Name: name}, img)
		},
	}
}
