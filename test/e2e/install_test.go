//go:build linux

package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// installerISO is the test installer, made by images/installer/build.
func installerISO(t *testing.T) string {
	t.Helper()
	path := os.Getenv("SANDBOXD_INSTALLER_ISO")
	if path == "" {
		path = filepath.Join(filepath.Dir(tinyImage(t)), "installer.iso")
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("there is no test installer: run images/installer/build %s: %v", path, err)
	}
	return path
}

const installSecret = `
apiVersion: v1
kind: Secret
metadata: {name: installed}
stringData: {password: it's "secret"}
---
`

func installImage(provision string) string {
	return `
apiVersion: sandboxd.dev/v1
kind: GoldenImage
metadata: {name: installed}
spec:
  source:
    iso:
      path: installer.iso
      diskSize: 2Gi
      unattended:
        user: alice
        passwordSecretRef: {name: installed}
        hostname: golden.example.org
        locale: de_DE
        packages: [curl, git]
  machine: {memory: 192Mi}
` + provision + `---
`
}

// TestInstall is the way from an installer's CD to a sandbox: the daemon is killed
// in the middle of the installation, the Secret comes late, and a step runs in the
// installed system.
func TestInstall(t *testing.T) {
	h := newHost(t)
	copyFile(t, installerISO(t), h.path("images/installer.iso"))
	status := func(path string) string {
		return h.ok("get", "goldenimage", "installed", "-o", "jsonpath={"+path+"}")
	}
	ready := func() string { return status(`.status.conditions[?(@.type=="Ready")].message`) }
	h.apply(installImage("  provision:\n  - {name: mark, script: \"echo provisioned >/etc/mark\"}\n"))
	h.eventually("the missing Secret said", func() error {
		if m := ready(); !strings.Contains(m, "there is no Secret default/installed") {
			return fmt.Errorf("it says %q", m)
		}
		return nil
	})
	h.apply(installSecret)
	h.eventually("installing", func() error {
		if m := ready(); !strings.Contains(m, "installing: installer: ") {
			return fmt.Errorf("it says %q", m)
		}
		return nil
	})
	h.kill()
	h.start()
	h.apply(strings.ReplaceAll(sandbox("web", ""), "image: tiny", "image: installed"))
	for _, object := range []string{"goldenimage/installed", "sandbox/web"} {
		h.waitLong(object)
	}
	got := h.ok("exec", "web", "--", "cat", "/etc/installed", "/etc/mark")
	if want := "user=alice\nhostname=golden.example.org\nlocale=de_DE.UTF-8\npackages=curl git\nprovisioned\n"; got != want {
		t.Errorf("what was installed says\n%s, want\n%s", got, want)
	}
	if got := h.ok("exec", "web", "--", "sh", "-c", "id -un alice; grep -c '^alice:[$]6[$]' /etc/shadow; hostname"); got != "alice\n1\nweb\n" {
		t.Errorf("in the guest: %q", got)
	}
	if strings.Contains(h.log(), `it's`) {
		t.Error("the password is in the log")
	}
	h.ok("delete", "sandbox", "web")
	h.ok("delete", "goldenimage", "installed")
	h.cleanedUp()
	h.stop()
}

// waitLong waits for an object that needs an installation and some boots, each of
// which may take minutes on a busy machine.
func (h *host) waitLong(object string) {
	h.t.Helper()
	var err error
	for range 6 {
		if _, err = h.try("wait", "--for", "condition=Ready", object, "--timeout", "3m"); err == nil {
			return
		}
	}
	h.t.Fatal(err)
}
