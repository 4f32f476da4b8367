package virtualbox_test

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
	"sandboxd.dev/sandboxd/providers/virtualbox"
)

// installerISO is the test installer: that of SANDBOXD_INSTALLER_ISO, or the one in
// the cache directory, made by images/installer/build. An interpreted processor takes
// too long for what it installs.
func installerISO(t testing.TB) conformance.Installer {
	t.Helper()
	path := os.Getenv("SANDBOXD_INSTALLER_ISO")
	if path == "" {
		cache, err := os.UserCacheDir()
		must(t, err)
		path = filepath.Join(cache, "sandboxd", "installer.iso")
	}
	path, err := filepath.EvalSymlinks(path)
	unless(t, err == nil, "there is no test installer: run images/installer/build ~/.cache/sandboxd/installer.iso ~/.cache/sandboxd/tiny.qcow2")
	return conformance.Installer{Path: path, SHA256: digestOf(t, path)}
}

const installInstance = providers.Instance("3f6a0f5e-6d0c-4d39-93a5-35a2a9d4c0be")

// newInstallLab is a host with one provider that has no image.
func newInstallLab(t *testing.T) (*host, *virtualbox.Provider) {
	h := newHost(t)
	p := h.open(t, installInstance)
	t.Cleanup(func() {
		must(t, p.Close())
		if left := h.audit(t); len(left) > 0 {
			t.Errorf("left on the host: %q", left)
		}
	})
	return h, p
}

const installPassword = "plain-to-see"

func installation(iso string) providers.MachineSpec {
	return providers.MachineSpec{
		ID: newID(), Namespace: "test", Name: "install", CPUs: 1, MemoryBytes: 256 << 20, DiskBytes: 2 << 30,
		Network: v1.Network{Mode: v1.NetworkNone},
		Install: &providers.Install{
			ISO: iso, Password: installPassword,
			Answers: v1.UnattendedInstall{User: "alice", Hostname: "golden", Locale: "de_DE", Packages: []string{"curl"}},
		},
	}
}

// asDebian is the test installer with what VirtualBox knows Debian's by.
func asDebian(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	iso, tree := filepath.Join(dir, "debian.iso"), filepath.Join(dir, "tree")
	run(t, "xorriso", "-osirrox", "on", "-indev", installerISO(t).Path, "-extract", "/", tree)
	run(t, "chmod", "-R", "u+w", tree)
	must(t, os.Mkdir(filepath.Join(tree, ".disk"), 0o755))
	must(t, os.WriteFile(filepath.Join(tree, ".disk", "info"), []byte("Debian GNU/Linux 12.5.0 \"Bookworm\" - Official amd64 NETINST with firmware 20240210-11:27\n"), 0o644))
	run(t, "xorriso", "-as", "mkisofs", "-quiet", "-o", iso, "-V", "SANDBOXD-INSTALLER", "-J", "-r",
		"-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", tree)
	must(t, os.RemoveAll(tree))
	return iso
}

// TestInstaller shows, of an installer that VirtualBox knows and of one that it does
// not, all until its boot loader runs, and what is done when it has ended: between
// them, an interpreted processor takes too long.
func TestInstaller(t *testing.T) {
	for name, of := range map[string]struct {
		iso  func(testing.TB) string
		made bool // VirtualBox makes a CD of its own
	}{
		"known to VirtualBox": {asDebian, true},
		"not known":           {func(t testing.TB) string { return installerISO(t).Path }, false},
	} {
		t.Run(name, func(t *testing.T) { testInstaller(t, of.iso(t), of.made) })
	}
}

func testInstaller(t *testing.T, iso string, made bool) {
	h, p := newInstallLab(t)
	ctx := context.Background()
	spec := installation(iso)
	t.Cleanup(func() { remove(t, p, spec.ID) })
	must(t, p.EnsureMachine(ctx, spec))
	first := manage(t, "showvminfo", string(spec.ID), "--machinereadable")
	must(t, p.EnsureMachine(ctx, spec))
	if again := manage(t, "showvminfo", string(spec.ID), "--machinereadable"); again != first {
		t.Errorf("ensured twice, it changed:\n%s\n%s", first, again)
	}
	for _, line := range []string{`boot1="dvd"`, `boot2="disk"`, `nic1="none"`} {
		if !strings.Contains(first, line) {
			t.Errorf("its configuration lacks %s", line)
		}
	}
	if strings.Contains(first, "aux-iso.viso") != made || strings.Contains(first, "/install.iso\"") == made {
		t.Errorf("in its drives is:\n%s", first)
	}
	noPassword(t, h)

	must(t, p.Start(ctx, spec.ID))
	m, err := p.GetMachine(ctx, spec.ID)
	must(t, err)
	if m.Power != providers.PowerRunning || m.Hashes != spec.Hashes() {
		t.Errorf("it is %+v", m)
	}
	if !testing.Short() { // the first words alone may take a minute
		eventually(t, "the installer's boot loader shows up on the console", func() bool {
			b, err := os.ReadFile(filepath.Join(h.root, "data-"+string(installInstance), "machines", string(spec.ID), "console.log"))
			must(t, err)
			return bytes.Contains(b, []byte("ISOLINUX"))
		})
	}
	must(t, p.Stop(ctx, spec.ID, providers.StopForce))

	spec.Install = nil
	if err := p.EnsureMachine(ctx, spec); providers.KindOf(err) != providers.ErrInvalid || !strings.Contains(err.Error(), "nothing on the disk that boots") {
		t.Errorf("what was not installed is taken: %v", err)
	}
	bootable(t, h, spec)
	must(t, p.EnsureMachine(ctx, spec))
	must(t, p.EnsureMachine(ctx, spec))
	after := manage(t, "showvminfo", string(spec.ID), "--machinereadable")
	if strings.Contains(after, "Unattended-") || strings.Contains(after, "install.iso") || strings.Contains(after, `="IDE"`) || !strings.Contains(after, `boot1="disk"`) {
		t.Errorf("of the installer is left:\n%s", after)
	}
	left, _ := filepath.Glob(filepath.Join(h.root, "data-*", "machines", "*", "*", "[Ui]n*"))
	if len(left) > 0 {
		t.Errorf("left of the installer: %q", left)
	}
	must(t, p.Start(ctx, spec.ID))
	must(t, p.Stop(ctx, spec.ID, providers.StopForce))
	sealInstalled(t, p, spec)
}

// noPassword looks for the password in all files.
func noPassword(t *testing.T, h *host) {
	t.Helper()
	_ = filepath.WalkDir(h.root, func(path string, d os.DirEntry, err error) error {
		must(t, err)
		if !d.Type().IsRegular() || strings.HasSuffix(path, ".iso") && !strings.HasSuffix(path, "seed.iso") {
			return nil
		}
		content, err := os.ReadFile(path)
		must(t, err)
		if bytes.Contains(content, []byte(installPassword)) {
			t.Errorf("the password is in %s", path)
		}
		return nil
	})
}

// bootable puts a boot sector that stops the processor on a machine's disk, in the
// place of the installer.
func bootable(t *testing.T, h *host, spec providers.MachineSpec) {
	t.Helper()
	found, _ := filepath.Glob(filepath.Join(h.root, "data-*", "machines", string(spec.ID), "*", "disk-1.vdi"))
	if len(found) != 1 {
		t.Fatalf("its disks are %q", found)
	}
	run(t, "qemu-io", "-f", "vdi", "-c", "write -P 0x55 510 1", "-c", "write -P 0xaa 511 1", found[0])
}

// sealInstalled makes an image of what was installed, and a machine of that.
func sealInstalled(t *testing.T, p *virtualbox.Provider, spec providers.MachineSpec) {
	t.Helper()
	ctx := context.Background()
	image := providers.ImageSpec{
		ImageRef: providers.ImageRef{UID: "installed", Revision: "1"}, Name: "installed",
		From: &providers.DiskRef{Machine: spec.ID},
	}
	sealed, err := p.ImportImage(ctx, image, nil)
	must(t, err)
	t.Cleanup(func() { must(t, p.DeleteImage(ctx, image.ImageRef)) })
	if sealed.VirtualSize != spec.DiskBytes {
		t.Errorf("its image has %d bytes", sealed.VirtualSize)
	}
	clone := spec
	clone.ID, clone.Name, clone.Image, clone.DiskBytes = newID(), "clone", image.ImageRef, 0
	must(t, p.EnsureMachine(ctx, clone))
	remove(t, p, clone.ID)
}
