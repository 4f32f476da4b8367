package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"sandboxd.dev/sandboxd/config"
	"sandboxd.dev/sandboxd/hostpath"
)

// TestDenied: no guest writes manifests that are applied as the daemon, or into the
// audit log, however it would get there; its neighbours stay shared.
func TestDenied(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"sync/one/deep", "sync/two", "logs/old", "free", "data", "data/images"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("sync/one", filepath.Join(root, "manifests")); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"logs/audit.log", "logs/audit.log.1", "logs/disk.img"} {
		if err := os.WriteFile(filepath.Join(root, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, images := range map[string]string{"images elsewhere": root + "/images", "images in the data folder": root + "/data/images"} {
		var c config.Config
		c.DataDir, c.BaseImageDir, c.VirtualBox.MachineFolder = root+"/data", images, root+"/data/machines"
		c.Manifests.Dir, c.Audit.File, c.Audit.MaxFiles = root+"/manifests", root+"/logs/audit.log", 3
		p, err := hostpath.New(hostpath.Options{Roots: []string{root}, Denied: deniedDirs(c)})
		if err != nil {
			t.Fatal(err)
		}
		for dir, want := range map[string]error{
			"": hostpath.ErrForbidden, "/manifests": hostpath.ErrForbidden, "/manifests/deep": hostpath.ErrForbidden,
			"/sync": hostpath.ErrForbidden, "/sync/one": hostpath.ErrForbidden, "/sync/one/deep": hostpath.ErrForbidden,
			"/logs": hostpath.ErrForbidden, "/free": nil, "/sync/two": nil, "/logs/old": nil,
		} {
			if _, err := p.Dir(root + dir); !errors.Is(err, want) {
				t.Errorf("%s: sharing %q: %v, want %v", name, dir, err, want)
			}
		}
		for file, want := range map[string]error{"audit.log": hostpath.ErrForbidden, "audit.log.1": hostpath.ErrForbidden, "disk.img": nil} {
			if _, err := p.File(root + "/logs/" + file); !errors.Is(err, want) {
				t.Errorf("%s: reading %s: %v, want %v", name, file, err, want)
			}
		}
	}
	// Without them nothing is denied for them.
	none := config.Config{DataDir: root + "/data"}
	none.Audit.File = config.AuditNone
	for _, dir := range deniedDirs(none) {
		if dir == "" || filepath.IsAbs(dir) {
			continue
		}
		t.Errorf("%q is denied", dir)
	}
}
