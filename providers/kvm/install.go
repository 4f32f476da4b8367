//go:build linux

package kvm

import (
	"context"
	"errors"
	"os"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/installer"
	"sandboxd.dev/sandboxd/providers/internal/seed"
	"sandboxd.dev/sandboxd/providers/kvm/internal/domain"
)

// A machine that installs an operating system has a disk of its own, which lies on
// no image, and besides its CD and the answers (in the place of the seed) perhaps
// kernel and initramfs of that CD. Once it is off and ensured without Install, it
// boots from that disk like any other machine.

// media are the files of a machine's installer.
func (p *Provider) media(id types.UID) installer.Media {
	return installer.Media{Object: machineObject(id), Dir: p.data.MachineDir(id), Step: p.steps.next}
}

// ensureInstaller brings the installer; nil when the machine has none.
func (p *Provider) ensureInstaller(ctx context.Context, spec providers.MachineSpec) (*domain.Installer, error) {
	if spec.Install == nil {
		return nil, nil
	}
	m := p.media(spec.ID)
	if err := m.Bring(ctx, *spec.Install); err != nil {
		return nil, p.fileError(m.Object, err)
	}
	cmdline, err := m.Extract(seed.AnswersOf(spec, installDisk))
	if err != nil {
		return nil, p.fileError(m.Object, err)
	}
	cd := &domain.Installer{ISO: m.ISO(), Cmdline: cmdline}
	if cmdline != "" {
		cd.Kernel, cd.Initrd = m.Kernel(), m.Initrd()
	}
	return cd, nil
}

// writeSeed writes the seed of a machine, or the answers for its installer.
func (p *Provider) writeSeed(spec providers.MachineSpec) error {
	path := p.data.seed(spec.ID)
	if spec.Install != nil {
		return seed.WriteAnswers(path, spec, installDisk, p.steps.next)
	}
	return seed.Write(path, spec, p.steps.next)
}

// installDisk is what a guest calls the disk to install on.
const installDisk = "/dev/vda"

// ensureInstalled makes an empty disk to install on, or keeps the one that there
// is: with what was installed, if no installer is to run any more.
func (p *Provider) ensureInstalled(ctx context.Context, spec providers.MachineSpec) error {
	object, path := machineObject(spec.ID), p.data.disk(spec.ID)
	if files.Exists(path) {
		c, err := p.diskChain(spec.ID)
		switch {
		case err != nil:
			return err
		case c.image != providers.ImageRef{}:
			return providers.Errorf(providers.ErrInvalid, object, "its disk lies on image %s, and nothing can be installed on it: delete the machine", c.image)
		case spec.Install != nil:
			return nil
		}
		return p.checkInstalled(ctx, object, path)
	}
	if spec.Install == nil {
		return providers.Errorf(providers.ErrInvalid, object, "it has neither an image nor an installer")
	}
	p.steps.next()
	if err := files.Write(p.data.installed(spec.ID), nil, datafolder.FileMode); err != nil {
		return p.fileError(object, err)
	}
	next := path + ".new"
	if err := os.RemoveAll(next); err != nil {
		return p.fileError(object, err)
	}
	p.steps.next()
	if err := p.img.Create(ctx, next, roundUp(spec.DiskBytes)); err != nil {
		_ = os.Remove(next)
		return p.fileError(object, err)
	}
	p.steps.next()
	return p.fileError(object, os.Rename(next, path))
}

// checkInstalled refuses a disk from which nothing boots: an installer that gave
// up powers its machine off like one that is done.
func (p *Provider) checkInstalled(ctx context.Context, object, path string) error {
	boots, err := p.img.Boots(ctx, path, v1.DiskFormatQCOW2, path+".sector")
	if err != nil {
		return p.fileError(object, err)
	}
	if !boots {
		return providers.Errorf(providers.ErrInvalid, object, "its installer ended and left nothing on the disk that boots: see the last lines of its console")
	}
	return nil
}

// checkBase makes sure that what a disk lies on is there.
func (p *Provider) checkBase(id types.UID, image providers.ImageRef) error {
	if image == (providers.ImageRef{}) {
		return nil
	}
	_, err := p.readImage(image)
	if errors.Is(err, providers.ErrNotFound) {
		return providers.Errorf(providers.ErrInvalid, machineObject(id), "%s, which its disk lies on, is gone: put its file %s back, or delete the sandbox",
			imageObject(image), p.data.image(image)).WithReason(v1.ReasonDiskLost)
	}
	return err
}
