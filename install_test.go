package sandboxd_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestInstall installs the program below a folder, uses what was installed, and
// removes it again.
func TestInstall(t *testing.T) {
	program := filepath.Join(t.TempDir(), "sandboxd")
	run(t, nil, "go", "build", "-trimpath", "-o", program, "./cmd/sandboxd")
	root := t.TempDir()
	env := []string{"DESTDIR=" + root, "PREFIX=/usr", "SANDBOXD_BIN=" + program}
	want := map[string]fs.FileMode{
		"usr/bin/sandboxd":                                  0o755,
		"usr/lib/systemd/system/sandboxd.service":           0o644,
		"usr/share/bash-completion/completions/sandboxd":    0o644,
		"usr/share/zsh/site-functions/_sandboxd":            0o644,
		"usr/share/fish/vendor_completions.d/sandboxd.fish": 0o644,
	}
	for range 2 { // the second time over the first
		run(t, env, "hack/install")
		got := filesBelow(t, root)
		for name, mode := range want {
			if got[name] != mode {
				t.Errorf("%s has mode %v, not %v", name, got[name], mode)
			}
		}
		if len(got) != len(want) {
			t.Errorf("installed %v", got)
		}
	}
	if out := run(t, nil, filepath.Join(root, "usr/bin/sandboxd"), "version", "--client"); !strings.HasPrefix(out, "Client Version: ") {
		t.Errorf("the installed program says %q", out)
	}
	unit, err := os.ReadFile(filepath.Join(root, "usr/lib/systemd/system/sandboxd.service"))
	if err != nil || !slices.Contains(strings.Split(string(unit), "\n"), "ExecStart=/usr/bin/sandboxd serve") {
		t.Errorf("the unit does not start /usr/bin/sandboxd (%v):\n%s", err, unit)
	}
	run(t, nil, "bash", "-n", filepath.Join(root, "usr/share/bash-completion/completions/sandboxd"))

	run(t, env, "hack/install", "--uninstall")
	if left := filesBelow(t, root); len(left) != 0 {
		t.Errorf("left after the removal: %v", left)
	}
}

func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// filesBelow lists the files in a tree with their permissions.
func filesBelow(t *testing.T, root string) map[string]fs.FileMode {
	t.Helper()
	files := map[string]fs.FileMode{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		files[name] = info.Mode().Perm()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
