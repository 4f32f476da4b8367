package virtualbox

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// DeleteMachine implements providers.Machines.
func (p *Provider) DeleteMachine(ctx context.Context, id types.UID) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	if !datafolder.IsUUID(id) {
		return providers.Errorf(providers.ErrNotFound, machineObject(id), "the ID is not a UUID, so there is no such machine")
	}
	unlock, err := p.locks.Lock(ctx, machineObject(id))
	if err != nil {
		return err
	}
	defer unlock()
	if !files.Exists(p.data.MachineDir(id)) {
		p.ports.release(id) // of one that was never made
		return providers.Errorf(providers.ErrNotFound, machineObject(id), "it does not exist")
	}
	if forks, err := p.forksOf(id, ""); err != nil || len(forks) > 0 {
		return forked(machineObject(id), forks, err)
	}
	defer p.watch.poke(id)
	p.watch.change(id)
	gone, err := p.dispose(ctx, id)
	if err == nil && !gone {
		err = p.unregisterAny(ctx, id)
	}
	if err != nil {
		return err
	}
	if err := p.endProcess(ctx, id); err != nil {
		return err
	}
	p.wires.drop(id, false)
	if err := os.Remove(p.data.tty(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p.fileError(machineObject(id), err)
	}
	return p.removeFolder(ctx, id)
}

// dispose removes a machine that is as machines are: whole and without snapshots.
// It names it by its definition, a file in our folder, so that it can be nobody
// else's, and need not look at it first. What is otherwise it leaves, and says
// false.
func (p *Provider) dispose(ctx context.Context, id types.UID) (bool, error) {
	r, err := p.readRecord(id)
	if err != nil || r.VM == "" {
		return false, nil
	}
	definition := p.definition(r)
	if !files.Exists(definition) {
		return false, nil
	}
	if d, err := readDefinition(definition); err != nil || len(d.Snapshots) > 0 || p.holdsOthers(r) {
		return false, nil
	}
	_, err = p.manage(ctx, id, vboxmanage.Slow, "controlvm", definition, "poweroff")
	var f *vboxmanage.Failure
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err == nil:
		p.guest.forget(id)
	case !errors.As(err, &f) || f.Code != 0 || !understood(err):
		return false, nil // VirtualBox does not have it, or cannot
	} // else it is off: VBoxManage's own word, without a code of VirtualBox
	_, err = p.manage(ctx, id, vboxmanage.Slow, "unregistervm", definition, "--delete-all")
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	return err == nil && !files.Exists(definition), nil
}

// unregisterAny removes a machine in whatever state it is from VirtualBox, if it is
// there and ours.
func (p *Provider) unregisterAny(ctx context.Context, id types.UID) error {
	m, err := p.look(ctx, id)
	switch {
	case err == nil:
		return p.unregister(ctx, m)
	case errors.Is(err, providers.ErrNotFound):
		return nil
	}
	return p.unregisterLost(ctx, id, err)
}

// unregister removes a machine with its files, its seed among them. That its process, just powered off,
// has not let go of it yet, is one of the moments that vboxmanage waits out. What
// VirtualBox says is believed if the machine's definition is gone as well; else
// what counts is whether it has the machine.
func (p *Provider) unregister(ctx context.Context, m machine) error {
	if err := p.childless(ctx, m); err != nil {
		return err
	}
	if m.on() {
		if _, err := p.manage(ctx, m.id, vboxmanage.Slow, "controlvm", string(m.id), "poweroff"); err != nil {
			if ctx.Err() != nil {
				return err
			}
			if err := p.powerOff(ctx, m); err != nil {
				return err
			}
		}
		p.guest.forget(m.id)
	}
	args := []string{"unregistervm", string(m.id), "--delete-all"}
	if len(strangers(m.info, p.data.MachineDir(m.id))) > 0 || p.holdsOthers(m.record) {
		args = args[:2] // its own files go with its folder
	}
	_, err := p.manage(ctx, m.id, vboxmanage.Slow, args...)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil && (len(args) == 2 || !files.Exists(p.definition(m.record))) {
		return nil
	}
	switch _, lookErr := p.look(ctx, m.id); {
	case errors.Is(lookErr, providers.ErrNotFound):
		return nil
	case err != nil:
		return err
	case lookErr != nil:
		return p.unregisterLost(ctx, m.id, lookErr)
	}
	return providers.Errorf(providers.ErrBusy, machineObject(m.id), "VirtualBox removed it and has it still: delete it again")
}

// childless refuses a machine on whose disks others lie, which were cloned from a
// snapshot that somebody took of it. VirtualBox, asked to delete it, refuses those
// disks and forgets the machine.
func (p *Provider) childless(ctx context.Context, m machine) error {
	if m.info["SnapshotUUID"] == "" {
		return nil
	}
	out, err := p.vbox.ListLong(ctx, machineObject(m.id), "hdds")
	if err != nil {
		return err
	}
	own := p.data.MachineDir(m.id)
	if _, child := childrenOf(vboxmanage.Blocks(out), own, own); child != "" {
		return providers.Errorf(providers.ErrBusy, machineObject(m.id), "the disk %s was cloned from a snapshot of it: remove what uses that disk first", child)
	}
	return nil
}

// unregisterLost removes a machine that VirtualBox has and cannot look at, because
// its definition is gone: it says that it fails, and forgets the machine. One that
// is not ours stays.
func (p *Provider) unregisterLost(ctx context.Context, id types.UID, cause error) error {
	config, err := p.configOf(ctx, id)
	switch {
	case err != nil:
		return err
	case !within(p.data.MachineDir(id), config):
		return nil
	case files.Exists(config):
		return cause // it is there, so that is not what is wrong
	}
	_, _ = p.manage(ctx, id, vboxmanage.Slow, "unregistervm", string(id))
	if _, err := p.look(ctx, id); !errors.Is(err, providers.ErrNotFound) {
		return cause
	}
	return nil
}

// configOf is the file in which VirtualBox keeps, or has lost, a machine's
// settings; empty when it does not have the machine.
func (p *Provider) configOf(ctx context.Context, id types.UID) (string, error) {
	out, err := p.vbox.ListLong(ctx, machineObject(id), "vms")
	if err != nil {
		return "", err
	}
	for _, b := range vboxmanage.Blocks(out) {
		if b["UUID"] == string(id) {
			return b["Config file"], nil
		}
	}
	return "", nil
}

// removeFolder removes what is left of a machine that VirtualBox does not have
// (any more): files, ports, and the network with its last machine.
func (p *Provider) removeFolder(ctx context.Context, id types.UID) error {
	object, dir := machineObject(id), p.data.MachineDir(id)
	r, err := p.readRecord(id)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p.fileError(object, err)
	}
	if err := p.closeMedia(ctx, id, dir); err != nil {
		return err
	}
	seeds, _ := filepath.Glob(filepath.Join(dir, "*", seedName)) // in whatever somebody has called the folder
	for _, seed := range seeds {
		// VirtualBox would remember the seed as long as it runs.
		if _, err := p.manage(ctx, id, 0, "closemedium", "dvd", seed); ctx.Err() != nil {
			return err
		}
	}
	if r.Installer != "" && r.VM != "" {
		if err := p.closeDVDs(ctx, id, dir); err != nil {
			return err
		}
	}
	if n, ok := networkOf(r); ok {
		// The record goes first: as long as it is there the network is in use.
		// Should this be cut off, the adapter's own file has it collected.
		p.steps.next()
		if err := os.Remove(p.data.record(id)); err != nil {
			return p.fileError(object, err)
		}
		if err := p.leaveNetwork(ctx, n); err != nil {
			return err
		}
	}
	p.steps.next()
	p.ports.release(id)
	p.guest.forget(id)
	p.drifts.note(id, nil)
	return p.fileError(object, os.RemoveAll(dir))
}
