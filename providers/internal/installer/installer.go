// Package installer brings what an unattended installation needs to a machine's
// folder, and removes it when it is over.
//
//	Install ──Bring──▶ install.iso       the installer: copied and verified
//	                   install.kernel    taken out of it, when it must be started so
//	                   install.initrd
//	Clear ──▶ none of them
//
// install.iso gets its name last, when it is whole and of the wanted digest. An
// installer is hostile input: what is read of it is bounded (guest/unattended).
package installer

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"sandboxd.dev/sandboxd/guest/unattended"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/fetch"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/source"
)

// Media are the files of one machine's installation.
type Media struct {
	// Object is what messages call the machine.
	Object string
	// Dir is the machine's folder.
	Dir string
	// Step is called before each change.
	Step func()
}

// ISO is the installer.
func (m Media) ISO() string { return filepath.Join(m.Dir, "install.iso") }

// Kernel is the installer's kernel.
func (m Media) Kernel() string { return filepath.Join(m.Dir, "install.kernel") }

// Initrd is the installer's initramfs.
func (m Media) Initrd() string { return filepath.Join(m.Dir, "install.initrd") }

func (m Media) downloads() string { return filepath.Join(m.Dir, "install.download") }

// maxISO is how many bytes an installer may have that is downloaded.
const maxISO = 64 << 30

func (m Media) part() string { return filepath.Join(m.Dir, "install.part") }

// Check refuses, as ErrInvalid, an installation that cannot be.
func Check(object string, spec providers.MachineSpec) error {
	invalid := func(format string, args ...any) error {
		return providers.Errorf(providers.ErrInvalid, object, format, args...)
	}
	in := spec.Install
	switch {
	case in == nil:
		return nil
	case spec.Image != providers.ImageRef{} || spec.Snapshot != nil:
		return invalid("it has an image and an installer: one of them is enough")
	case spec.DiskBytes <= 0:
		return invalid("the disk to install on has no size")
	case (in.ISO == "") == (in.URL == ""):
		return invalid("its installer has a path and an address, or neither")
	case in.ISO != "" && !filepath.IsAbs(in.ISO):
		return invalid("the path %q of its installer is not absolute", in.ISO)
	case in.Answers.User == "":
		return invalid("the installer is told no user to make")
	}
	return nil
}

// Bring copies or downloads the installer, unless it is there already.
func (m Media) Bring(ctx context.Context, in providers.Install) error {
	if files.Exists(m.ISO()) {
		return nil
	}
	m.Step()
	if err := os.RemoveAll(m.part()); err != nil {
		return err
	}
	if in.URL != "" {
		return m.download(ctx, in)
	}
	f, digest, err := source.Stage(ctx, m.Object, in.ISO, m.part(), func(providers.Progress) {})
	if err != nil {
		_ = os.Remove(m.part())
		return err
	}
	defer func() { _ = f.Close() }()
	if err := m.checkDigest(in.ISO, digest, in.SHA256); err != nil {
		_ = os.Remove(m.part())
		return err
	}
	m.Step()
	if err := f.Chmod(datafolder.FileMode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(m.part(), m.ISO())
}

// download downloads the installer. What an earlier try received is gone on from,
// and received anew when that turns out to be damaged.
func (m Media) download(ctx context.Context, in providers.Install) error {
	r := fetch.Request{Object: m.Object, URL: in.URL, Dir: m.downloads(), MaxBytes: maxISO, Step: m.Step}
	got, err := fetch.Get(ctx, r)
	if err == nil && got.Resumed && in.SHA256 != "" && got.Digest != in.SHA256 {
		if err := os.RemoveAll(r.Dir); err != nil {
			return err
		}
		got, err = fetch.Get(ctx, r)
	}
	if err != nil {
		return err
	}
	if err := m.checkDigest(fetch.Shown(in.URL), got.Digest, in.SHA256); err != nil {
		_ = os.RemoveAll(r.Dir)
		return err
	}
	m.Step()
	if err := errors.Join(os.Chmod(got.Path, datafolder.FileMode), files.Sync(got.Path), os.Rename(got.Path, m.ISO())); err != nil {
		return err
	}
	return os.RemoveAll(r.Dir)
}

func (m Media) checkDigest(what, digest, want string) error {
	if want == "" || want == digest {
		return nil
	}
	return providers.Errorf(providers.ErrInvalid, m.Object, "the installer %s has sha256 %s, but spec.source.iso.sha256 is %s: correct the manifest or the file",
		what, digest, want).WithReason(providers.ReasonDigestMismatch)
}

// Extract takes kernel and initramfs out of an installer that must be started
// with a command line of its own, and returns that; empty when the ISO is to be
// booted as it is.
func (m Media) Extract(a unattended.Answers) (cmdline string, err error) {
	iso, err := os.Open(m.ISO())
	if err != nil {
		return "", err
	}
	defer func() { _ = iso.Close() }()
	boot, err := unattended.Recognise(iso)
	if err != nil {
		return "", providers.Errorf(providers.ErrInvalid, m.Object, "its installer is no CD that can be booted: %w", err)
	}
	if boot == nil {
		return "", nil
	}
	if files.Exists(m.Kernel()) && files.Exists(m.Initrd()) {
		return boot.Cmdline, nil
	}
	m.Step()
	if err := m.write(m.Initrd(), func(w io.Writer) error { return boot.WriteInitramfs(w, a) }); err != nil {
		return "", err
	}
	m.Step()
	return boot.Cmdline, m.write(m.Kernel(), boot.WriteKernel)
}

// write writes a file that is there only when it is whole.
func (m Media) write(path string, content func(io.Writer) error) error {
	if err := os.RemoveAll(m.part()); err != nil {
		return err
	}
	f, err := os.OpenFile(m.part(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, datafolder.FileMode)
	if err != nil {
		return err
	}
	if err := errors.Join(content(f), f.Sync(), f.Close()); err != nil {
		_ = os.Remove(m.part())
		return err
	}
	return os.Rename(m.part(), path)
}

// Clear removes the installer of a machine that needs none any more.
func (m Media) Clear() error {
	for _, path := range []string{m.ISO(), m.Kernel(), m.Initrd(), m.part(), m.downloads()} {
		if !files.Exists(path) {
			continue
		}
		m.Step()
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}
