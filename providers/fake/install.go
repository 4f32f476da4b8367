package fake

import (
	"os"
	"path/filepath"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake/internal/guest"
)

// An installer is a guest without an agent that, some time after its start, has
// put a system on the empty disk and powers off.

// validateInstall tells what of an installation cannot be done.
func (p *Provider) validateInstall(s providers.MachineSpec) error {
	in := s.Install
	invalid := func(format string, args ...any) error {
		return providers.Errorf(providers.ErrInvalid, machineObject(s.ID), format, args...)
	}
	switch {
	case in == nil && s.Image.UID == "":
		return invalid("it has neither an image nor an installer")
	case in == nil:
		return nil
	case s.Image != ref{} || s.Snapshot != nil:
		return invalid("it has an image and an installer: one of them is enough")
	case s.DiskBytes == 0:
		return invalid("the disk to install on has no size")
	case !filepath.IsAbs(in.ISO):
		return invalid("the path %q of its installer is not absolute", in.ISO)
	case in.Answers.User == "":
		return invalid("the installer is told no user to make")
	}
	if _, ok := p.w.source(in.ISO); ok {
		return nil
	}
	info, err := os.Stat(in.ISO)
	switch {
	case os.IsNotExist(err):
		return providers.Errorf(providers.ErrNotFound, machineObject(s.ID), "its installer %q does not exist on this host", in.ISO).
			WithReason(providers.ReasonSourceNotFound)
	case err != nil || !info.Mode().IsRegular():
		return invalid("its installer %q is not a regular file that can be read", in.ISO)
	}
	return nil
}

// install lets the installer of a machine that runs do its work; it needs the
// lock.
func (w *World) install(m *machine) {
	w.after(m, w.latency.Install, func() {
		pt := w.folder(providers.Instance(m.tag)).partsOf(m.id)
		answers := m.runningSpec.Install.Answers
		pt.disk.Disk = guest.NewDisk(pt.disk.Size())
		pt.disk.Install(answers.User, answers.Hostname)
		pt.log.printf("fake: %s is installed\n", m.spec.Name)
		w.shutDown(m)
	})
}
