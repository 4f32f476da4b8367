//go:build linux

package kvm

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/kvm/internal/accel"
)

func mkfifo(path string) error { return unix.Mkfifo(path, 0o600) }

// nobody is a user who owns nothing.
const nobody = 65534

// openDir makes a folder that everybody may pass through.
func openDir(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can look with another user's eyes")
	}
	dir, err := os.MkdirTemp("/tmp", "sandboxd-kvm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	chmod(t, dir, 0o755)
	return dir
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestDeniedTo(t *testing.T) {
	dir := openDir(t)
	deep := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	look := func(need uint32, want string) {
		t.Helper()
		if got, err := deniedTo(nobody, nobody, deep, need); err != nil || got != want {
			t.Errorf("denied at %q, %v; want %q", got, err, want)
		}
	}
	look(unix.R_OK|unix.X_OK, "")
	look(unix.W_OK, deep)
	chmod(t, deep, 0o777)
	look(unix.W_OK|unix.X_OK, "")
	chmod(t, filepath.Join(dir, "a"), 0o700)
	look(unix.R_OK, filepath.Join(dir, "a"))
	if _, err := os.ReadDir("/root"); err != nil {
		t.Errorf("the other user's eyes stayed: %v", err)
	}
}

func TestCheckFolder(t *testing.T) {
	dir := openDir(t)
	writable := false
	facts := facts{uid: nobody, gid: nobody}
	check := func(f v1.SharedFolder, want string) {
		t.Helper()
		err := checkFolder("machine x", f, facts)
		if want == "" && err != nil || want != "" && (providers.KindOf(err) != providers.ErrInvalid || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	check(v1.SharedFolder{Name: "a", HostPath: dir}, "")
	check(v1.SharedFolder{Name: "a", HostPath: dir, ReadOnly: &writable}, "setfacl -R -m u:65534:rwX "+dir)
	check(v1.SharedFolder{Name: "a", HostPath: dir + "/none"}, "not a directory")
	chmod(t, dir, 0o700)
	check(v1.SharedFolder{Name: "a", HostPath: dir}, "setfacl -R -m u:65534:rX "+dir)
}

// find returns a finding by its check.
func find(t *testing.T, all []providers.Finding, check string) providers.Finding {
	t.Helper()
	for _, f := range all {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("there is no finding about %s: %+v", check, all)
	return providers.Finding{}
}

func TestDiagnoseWithoutLibvirt(t *testing.T) {
	all := Diagnose(context.Background(), Options{DataDir: t.TempDir(), Socket: "/nonexistent/libvirt-sock", QemuImg: "no-such-qemu-img"})
	for _, check := range []string{"libvirt", "no-such-qemu-img"} {
		if f := find(t, all, check); f.Severity != providers.SeverityMissing || f.Fix == "" || f.Message == "" {
			t.Errorf("%+v", f)
		}
	}
	for _, f := range all {
		if f.Check == "" || f.Message == "" || strings.Contains(f.Message, "\n") {
			t.Errorf("%+v", f)
		}
	}
	if all := Diagnose(context.Background(), Options{}); len(all) != 1 || all[0].Severity != providers.SeverityMissing {
		t.Errorf("of bad options: %+v", all)
	}
}

func TestDiagnoseAcceleration(t *testing.T) {
	dir := openDir(t)
	device := filepath.Join(dir, "kvm")
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	works := func() accel.Result { return accel.Result{Works: true} }
	broken := func() accel.Result { return accel.Result{Reason: "it is broken"} }
	if f := diagnoseAcceleration(Options{}, works, device, nobody, nobody); f.Severity != providers.SeverityWarning || !strings.Contains(f.Fix, "chgrp kvm "+device) {
		t.Errorf("a device for root only: %+v", f)
	}
	chmod(t, device, 0o666)
	if f := diagnoseAcceleration(Options{}, works, device, nobody, nobody); f.Severity != providers.SeverityOK {
		t.Errorf("%+v", f)
	}
	if f := diagnoseAcceleration(Options{}, broken, device, nobody, nobody); f.Severity != providers.SeverityWarning || !strings.Contains(f.Message, "it is broken") {
		t.Errorf("%+v", f)
	}
}

func TestDiagnoseDataDir(t *testing.T) {
	dir := openDir(t)
	o := Options{DataDir: filepath.Join(dir, "not", "yet")}
	if f := diagnoseDataDir(o, nobody, nobody); f.Severity != providers.SeverityOK {
		t.Errorf("%+v", f)
	}
	chmod(t, dir, 0o700)
	if f := diagnoseDataDir(o, nobody, nobody); f.Severity != providers.SeverityMissing || f.Fix != "chmod o+x "+dir {
		t.Errorf("%+v", f)
	}
}

func TestDiagnoseSourceCheck(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rp_filter")
	for content, want := range map[string]providers.Severity{"0\n": providers.SeverityWarning, "1\n": providers.SeverityOK, "2\n": providers.SeverityOK} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if f := diagnoseSourceCheck(path); f.Severity != want {
			t.Errorf("%q: %+v", content, f)
		}
	}
}

func TestDiagnoseRealLibvirt(t *testing.T) {
	if os.Getenv("SANDBOXD_PRIVATE_LIBVIRT") != "1" {
		t.Skip("there is no private libvirt: run the test by hack/private-libvirt")
	}
	for _, f := range Diagnose(context.Background(), Options{DataDir: "/var/lib/sandboxd"}) {
		t.Logf("%s: %s: %s %s", f.Check, f.Severity, f.Message, f.Fix)
		if f.Severity == providers.SeverityMissing {
			t.Errorf("%+v", f)
		}
	}
}
