package fake

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"

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
	case in == nil && s.Image == ref{} && p.installed(s.ID):
		return nil
	case in == nil && s.Image == ref{}:
		return invalid("it has neither an image nor an installer")
	case in == nil:
		return nil
	case s.Image != ref{} || s.Snapshot != nil:
		return invalid("it has an image and an installer: one of them is enough")
	case s.DiskBytes == 0:
		return invalid("the disk to install on has no size")
	case (in.ISO == "") == (in.URL == ""):
		return invalid("its installer has a path and an address, or neither")
	case in.URL == "" && !filepath.IsAbs(in.ISO):
		return invalid("the path %q of its installer is not absolute", in.ISO)
	case in.Answers.User == "":
		return invalid("the installer is told no user to make")
	}
	if in.URL != "" {
		return nil // its world has no network to look at
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
	return p.checkInstaller(s.ID, *in)
}

// checkInstaller compares the installer with its digest.
func (p *Provider) checkInstaller(id types.UID, in providers.Install) error {
	if in.SHA256 == "" {
		return nil
	}
	f, err := os.Open(in.ISO)
	if err != nil {
		return providers.Errorf(providers.ErrInvalid, machineObject(id), "its installer %q cannot be read", in.ISO)
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return providers.Errorf(providers.ErrUnavailable, machineObject(id), "%w", err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != in.SHA256 {
		return providers.Errorf(providers.ErrInvalid, machineObject(id), "the installer %s has sha256 %s, but spec.source.iso.sha256 is %s: correct the manifest or the file",
			in.ISO, got, in.SHA256).WithReason(providers.ReasonDigestMismatch)
	}
	return nil
}

// installed tells whether there is a disk that an installer was given; it needs
// the lock.
func (p *Provider) installed(id types.UID) bool {
	pt := p.folder().parts[id]
	return pt != nil && pt.disk != nil
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
