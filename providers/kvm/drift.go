//go:build linux

package kvm

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/digitalocean/go-libvirt"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/qemuimg"
	"sandboxd.dev/sandboxd/providers/kvm/internal/domain"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
	"sandboxd.dev/sandboxd/providers/kvm/internal/libvirtconn"
)

// What others change of a machine is found by comparing what libvirt has with what
// the machine's record says that was defined (domain.Drift), and by what the files
// and the host show:
//
//	libvirt's live definition  ┐
//	libvirt's next definition  ├─▶ drift ──▶ EnsureMachine: defined anew, renamed, or
//	the disk and what it is on │             refused, if something of others would be lost
//	links and networks         ┘
//
// Of a machine that is off this costs no call that GetMachine does not make anyway.

// sight gathers what is compared.
func (p *Provider) sight(m machine) domain.Sight {
	spec := m.record.Spec()
	spec.Disk, spec.Seed, spec.Console = p.data.disk(m.id), p.data.seed(m.id), p.data.console(m.id)
	s := domain.Sight{Want: spec, Saved: m.power == providers.PowerSaved, Defined: &m.live.Outline}
	if m.on() {
		s.Live, s.Defined, s.Undefined = &m.live.Outline, m.defined, m.undefined
	}
	s.Files = p.lookAtFiles(m, s.Live, s.Defined)
	return s
}

// sightAlone is sight while others may work on the machine. Its files are in order
// before and after that, and not all the while: what seems lost or damaged is believed
// once nobody here works on them.
func (p *Provider) sightAlone(m machine) domain.Sight {
	s := p.sight(m)
	if s.Files.Lost == "" && s.Files.Damaged == "" {
		return s
	}
	unlock, free := p.locks.TryShare(machineObject(m.id))
	if !free {
		s.Files.Lost, s.Files.Damaged = "", ""
		return s
	}
	defer unlock()
	s.Files = p.lookAtFiles(m, s.Live, s.Defined)
	return s
}

// lookAtFiles looks at what the disk of a machine consists of, and at the files
// that libvirt uses in its place.
func (p *Provider) lookAtFiles(m machine, outlines ...*domain.Outline) domain.DiskFiles {
	var f domain.DiskFiles
	disk := p.data.disk(m.id)
	c, err := p.diskChain(m.id)
	if err == nil && c.image != (providers.ImageRef{}) {
		if _, statErr := os.Lstat(p.data.image(c.image)); errors.Is(statErr, fs.ErrNotExist) {
			f.Lost, f.Base = p.data.image(c.image), true
		}
	}
	var lost *lostFile
	var bad *badDisk
	switch {
	case errors.As(err, &lost):
		f.Lost, f.Base = lost.path, p.ownerOf(lost.path) != m.id
	case errors.As(err, &bad):
		f.Damaged, f.Base = bad.what, p.ownerOf(bad.path) != m.id
	}
	f.Snapshots = c.snapshots
	for _, o := range outlines {
		if o == nil {
			continue
		}
		path, ok := o.RootDisk()
		if ok && path != disk && !slices.Contains(f.Overlays, path) && liesOn(path, disk) {
			f.Overlays = append(f.Overlays, path)
		}
	}
	return f
}

// liesOn tells whether a file of others is an overlay upon a disk. One that cannot
// be read just now may be.
func liesOn(path, disk string) bool {
	for range maxDepth {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			return false
		}
		h, err := readDisk(path)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, qemuimg.ErrFormat), errors.Is(err, qemuimg.ErrRefersToOthers):
			return false
		case err != nil:
			return true
		case h.Backing == "":
			return false
		}
		if !filepath.IsAbs(h.Backing) {
			h.Backing = filepath.Join(filepath.Dir(path), h.Backing)
		}
		if path = h.Backing; path == disk {
			return true
		}
	}
	return false
}

// networkDrift tells whether a machine that runs was seen to be connected in
// another way than it was made, and cannot be put right while it does. The first
// look may be older than the machine; so it is looked at anew, while nobody starts
// or ends it here. What is wrong with its neighbours on the bridge is not its drift: it
// is not isolated for as long, and one that libvirt is just connecting is for a moment
// what another's would be.
func (p *Provider) networkDrift(ctx context.Context, m machine) (providers.Drift, bool) {
	unlock, free := p.locks.TryLock(machineObject(m.id))
	if !free {
		return providers.Drift{}, false
	}
	defer unlock()
	m, err := p.look(ctx, m.id)
	if err != nil || !m.on() || m.power == providers.PowerStopping {
		return providers.Drift{}, false
	}
	s, err := p.sightOfNetwork(ctx, m, true)
	if err != nil {
		return providers.Drift{}, false
	}
	detail, ok := judgeOwn(s)
	if ok || s.mendable() {
		return providers.Drift{}, false
	}
	if now, err := p.look(ctx, m.id); err != nil || !now.on() || now.power == providers.PowerStopping {
		return providers.Drift{}, false // it ended while it was looked at
	}
	return providers.Drift{Reason: v1.ReasonNetworkChanged, Detail: detail, Remedy: providers.RemedyPowerOff}, true
}

// refuse is why nothing is changed of a machine with a drift that cannot be put
// right.
func refuse(id types.UID, drifts []providers.Drift) error {
	for _, d := range drifts {
		if d.Remedy == providers.RemedyNone {
			return providers.Errorf(providers.ErrInvalid, machineObject(id), "%s: %s", d.Detail, d.Advice).WithReason(d.Reason)
		}
	}
	return nil
}

// unshared refuses to work on the disk of a machine of which others keep snapshots:
// they would be lost, or what was written since would be missing.
func (p *Provider) unshared(ctx context.Context, m machine) error {
	m, err := p.lookWhole(ctx, m.id)
	if err != nil {
		return err
	}
	drifts := slices.DeleteFunc(domain.Drift(p.sight(m)), func(d providers.Drift) bool { return d.Reason != v1.ReasonForeignSnapshots })
	return refuse(m.id, drifts)
}

// redefine puts the definition of a machine right that is on or saved. What runs
// is not touched.
func (p *Provider) redefine(ctx context.Context, m machine, s domain.Sight) error {
	if !s.Redefinable() {
		return nil
	}
	c, err := p.diskChain(m.id)
	if err != nil {
		return err
	}
	s.Want.Below = c.files[1:]
	text, err := domain.Build(s.Want)
	if err != nil {
		return providers.Errorf(providers.ErrInvalid, machineObject(m.id), "%w", err)
	}
	p.log.Info("definition was changed by others and is put right", "machine", m.id)
	return p.define(ctx, s.Want.MachineSpec, text)
}

// rename gives a machine that is off its name back, so that it can be defined.
// libvirt does not rename what it keeps notes of snapshots of; then it forgets the
// machine, which is defined anew by the caller. Its files stay.
func (p *Provider) rename(ctx context.Context, spec providers.MachineSpec, was machine) error {
	name := identity.DomainName(spec.Namespace, spec.Name, spec.ID)
	if was.id == "" || was.live.Outline.Name == name {
		return nil
	}
	err := p.call(ctx, spec.ID, libvirtconn.Slow, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		_, err := l.DomainRename(d, libvirt.OptString{name}, 0)
		return err
	})
	if err == nil || ctx.Err() != nil || libvirtconn.Code(err) == libvirt.ErrOk {
		return err
	}
	if err := p.nameIsFree(ctx, spec.ID, name); err != nil {
		return err
	}
	return p.call(ctx, spec.ID, libvirtconn.Slow, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		return l.DomainUndefineFlags(d, libvirt.DomainUndefineManagedSave|libvirt.DomainUndefineSnapshotsMetadata|
			libvirt.DomainUndefineCheckpointsMetadata|libvirt.DomainUndefineKeepNvram)
	})
}
