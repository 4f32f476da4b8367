//go:build linux

package kvm_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/conformance"
	"sandboxd.dev/sandboxd/providers/kvm"
)

// installerISO is the test installer: that of SANDBOXD_INSTALLER_ISO, or the one in
// the cache directory, made by images/installer/build.
func installerISO(t testing.TB) conformance.Installer {
	t.Helper()
	path := os.Getenv("SANDBOXD_INSTALLER_ISO")
	if path == "" {
		path = filepath.Join(filepath.Dir(tinyImage(t)), "installer.iso")
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("there is no test installer: run images/installer/build %s", path)
	}
	return conformance.Installer{Path: path, SHA256: digestOf(t, path), Boots: true}
}

const bareInstance = providers.Instance("0b2ef0f1-56a4-4c6e-9d53-6a1c4f1f7c11")

// newBareLab is a host with one provider that has no image.
func newBareLab(t *testing.T) (*host, *kvm.Provider) {
	h := newHost(t)
	p := h.open(t, bareInstance)
	t.Cleanup(func() {
		must(t, p.Close())
		if left := h.audit(t); len(left) > 0 {
			t.Errorf("left on the host: %q", left)
		}
	})
	return h, p
}

// TestInstallWithoutRecognition boots the CD itself, as an installer that is not
// known is booted: its answers are on the second disk. What is on the host for it
// names no password.
func TestInstallWithoutRecognition(t *testing.T) {
	h, p := newBareLab(t)
	iso := filepath.Join(h.root, "unknown.iso")
	b, err := os.ReadFile(installerISO(t).Path)
	must(t, err)
	b = bytes.ReplaceAll(b, []byte("\x00l\x00.\x00a\x00m\x00d"), []byte("\x00l\x00.\x00x\x00x\x00x"))
	must(t, os.WriteFile(iso, b, 0o644)) //nolint:gosec // QEMU's user reads it
	const password = "plain-to-see"
	spec := providers.MachineSpec{
		ID: newID(), Namespace: "test", Name: "unknown", CPUs: 1, MemoryBytes: 256 << 20, DiskBytes: 2 << 30,
		Network: v1.Network{Mode: v1.NetworkNone},
		Install: &providers.Install{ISO: iso, Answers: v1.UnattendedInstall{User: "root"}, Password: password},
	}
	ctx := context.Background()
	t.Cleanup(func() { remove(t, p, spec.ID) })
	must(t, p.EnsureMachine(ctx, spec))
	if text := run(t, "virsh", "dumpxml", string(spec.ID)); strings.Contains(text, "<kernel>") || strings.Contains(text, password) {
		t.Errorf("the domain is\n%s", text)
	}
	must(t, p.Start(ctx, spec.ID))
	eventually(t, "the installer powers off", func() bool {
		m, err := p.GetMachine(ctx, spec.ID)
		must(t, err)
		return m.Power == providers.PowerOff
	})
	_ = filepath.WalkDir(h.dataDir(bareInstance), func(path string, d os.DirEntry, err error) error {
		must(t, err)
		if !d.Type().IsRegular() {
			return nil
		}
		content, err := os.ReadFile(path)
		must(t, err)
		if bytes.Contains(content, []byte(password)) {
			t.Errorf("the password is in %s", path)
		}
		return nil
	})
	spec.Install = nil
	must(t, p.EnsureMachine(ctx, spec))
	must(t, p.Start(ctx, spec.ID))
	eventually(t, "the installed system is up", func() bool {
		m, err := p.GetMachine(ctx, spec.ID)
		must(t, err)
		return m.Agent == providers.AgentConnected
	})
}

// TestInstallerThatGivesUp leaves a disk that nothing boots from.
func TestInstallerThatGivesUp(t *testing.T) {
	_, p := newBareLab(t)
	spec := providers.MachineSpec{
		ID: newID(), Namespace: "test", Name: "small", CPUs: 1, MemoryBytes: 256 << 20, DiskBytes: 64 << 20, // too small for the system
		Network: v1.Network{Mode: v1.NetworkNone},
		Install: &providers.Install{ISO: installerISO(t).Path, Answers: v1.UnattendedInstall{User: "alice"}, Password: "x"},
	}
	ctx := context.Background()
	t.Cleanup(func() { remove(t, p, spec.ID) })
	must(t, p.EnsureMachine(ctx, spec))
	must(t, p.Start(ctx, spec.ID))
	eventually(t, "the installer powers off", func() bool {
		m, err := p.GetMachine(ctx, spec.ID)
		must(t, err)
		return m.Power == providers.PowerOff
	})
	spec.Install = nil
	if err := p.EnsureMachine(ctx, spec); providers.KindOf(err) != providers.ErrInvalid || !strings.Contains(err.Error(), "nothing on the disk that boots") {
		t.Errorf("what was not installed is started: %v", err)
	}
}
