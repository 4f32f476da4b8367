//go:build linux

package kvm

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

// listSnapshotFiles lists a machine's snapshots or layers. A layer goes with its
// machine; which snapshots name it is looked at before.
func (p *Provider) listSnapshotFiles(id types.UID, dir string) []providers.Resource {
	entries, err := os.ReadDir(filepath.Join(p.data.Root, dir))
	if err != nil {
		return nil // gone meanwhile
	}
	var out []providers.Resource
	for _, e := range entries {
		ref := providers.SnapshotRef{Machine: id, ID: types.UID(strings.TrimSuffix(strings.TrimSuffix(e.Name(), ".json"), ".memory"))}
		_, err := p.readSnapshot(ref)
		owners := []types.UID{id}
		if path.Base(dir) == "snapshots" && datafolder.IsUUID(ref.ID) {
			owners = append(owners, ref.ID)
		}
		switch taken := err == nil && len(owners) == 2; {
		case taken && strings.HasSuffix(e.Name(), ".json"):
			r := p.fileResource(providers.ResourceSnapshot, path.Join(dir, e.Name()), owners, providers.Ours)
			r.ID = ref.String()
			out = append(out, r)
		case taken && strings.HasSuffix(e.Name(), ".memory"): // listed with its snapshot
		default:
			out = append(out, p.fileResource(providers.ResourceFile, path.Join(dir, e.Name()), owners, providers.Ours))
		}
	}
	if len(entries) == 0 {
		out = append(out, p.fileResource(providers.ResourceFile, dir, []types.UID{id}, providers.Ours))
	}
	return out
}

// removeSnapshot removes a snapshot whose machine does not exist.
func (p *Provider) removeSnapshot(ctx context.Context, object string, ref providers.SnapshotRef) error {
	if !datafolder.IsUUID(ref.Machine) || !datafolder.IsUUID(ref.ID) {
		return providers.Errorf(providers.ErrInvalid, object, "it is not of a kind that is made here")
	}
	return p.whenGone(ctx, object, ref.Machine, func() error {
		err := p.deleteSnapshot(ctx, ref, machine{})
		_ = os.Remove(p.data.MachineDir(ref.Machine))
		return err
	})
}

// removeMachineFile removes one file of a machine that does not exist.
func (p *Provider) removeMachineFile(ctx context.Context, object string, id types.UID, rest []string) error {
	return p.whenGone(ctx, object, id, func() error { return p.removeLeft(ctx, object, id, rest) })
}

// removeLeft removes one file of a machine that is locked and does not exist.
func (p *Provider) removeLeft(ctx context.Context, object string, id types.UID, rest []string) error {
	dir := p.data.MachineDir(id)
	if len(rest) > 0 && (rest[0] == "layers" || rest[0] == "snapshots") {
		return p.removeSnapshotFile(ctx, object, id, rest)
	}
	if len(rest) == 2 {
		return providers.Errorf(providers.ErrInvalid, object, "it is not of a kind that is made here")
	}
	if len(rest) == 1 && rest[0] == filepath.Base(p.data.networkRef(id)) && files.Exists(p.data.networkRef(id)) {
		if err := p.leaveAnyNetwork(ctx, id, machine{}); err != nil {
			return err
		}
		_ = os.Remove(dir)
		return nil
	}
	return p.removePath(object, dir, rest)
}

// whenGone does something with what is left of a machine that does not exist.
func (p *Provider) whenGone(ctx context.Context, object string, id types.UID, do func() error) error {
	unlock, err := p.locks.Lock(ctx, machineObject(id))
	if err != nil {
		return err
	}
	defer unlock()
	switch _, err := p.look(ctx, id); {
	case err == nil:
		return providers.Errorf(providers.ErrBusy, object, "machine %s exists and needs it: remove the machine", id)
	case !errors.Is(err, providers.ErrNotFound):
		return err
	}
	return do()
}

// removeSnapshotFile removes a layer, or what is left of a snapshot, of a machine
// that does not exist and that nothing was forked from.
func (p *Provider) removeSnapshotFile(ctx context.Context, object string, id types.UID, rest []string) error {
	unlock, err := p.locks.Lock(ctx, layersLock(id))
	if err != nil {
		return err
	}
	defer unlock()
	forks, err := p.forksOf(id)
	if err != nil {
		return p.fileError(object, err)
	}
	for _, of := range forks {
		return providers.Errorf(providers.ErrBusy, object, "machine %s was forked from it: remove the fork", of[0])
	}
	dir := filepath.Join(p.data.MachineDir(id), rest[0])
	if err := p.removePath(object, dir, rest[1:]); err != nil {
		return err
	}
	_ = os.Remove(p.data.MachineDir(id))
	return nil
}
