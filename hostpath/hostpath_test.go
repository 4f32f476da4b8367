package hostpath_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sandboxd.dev/sandboxd/hostpath"
)

// tree makes:
//
//	base/real/{dir/,file}            an allowed root
//	base/rootlink -> real            an allowed root that is a symlink
//	base/real/inside -> dir          a symlink within
//	base/real/outside -> ../secret   a symlink out
//	base/real/dangling -> nowhere
//	base/real/state/                 the daemon's own
//	base/real/bell\a/, base/real/\xff/, base/real/tobell -> bell\a
//	base/realistic/                  a neighbour whose name begins like a root
//	base/secret/                     not allowed
//	base/images/disk.qcow2           the image directory
func tree(t testing.TB) (string, *hostpath.Policy) {
	t.Helper()
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"real/dir", "real/state/x", "real/bell\a", "real/\xff", "realistic", "secret/dir", "images"} {
		must(t, os.MkdirAll(filepath.Join(base, d), 0o755))
	}
	for _, f := range []string{"real/file", "secret/file", "images/disk.qcow2"} {
		must(t, os.WriteFile(filepath.Join(base, f), []byte("x"), 0o644))
	}
	for link, to := range map[string]string{
		"rootlink": "real", "real/inside": "dir", "real/outside": "../secret",
		"real/tobell": "bell\a", "real/dangling": "nowhere", "real/loop": "loop", "real/filelink": "../secret/file",
		"images/escape.qcow2": "../secret/file",
	} {
		must(t, os.Symlink(to, filepath.Join(base, link)))
	}
	p, err := hostpath.New(hostpath.Options{
		Roots:    []string{base + "/rootlink", base + "/notyet"},
		ImageDir: base + "/images",
		Denied:   []string{base + "/real/state"},
	})
	must(t, err)
	return base, p
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDir(t *testing.T) {
	base, p := tree(t)
	tests := []struct {
		path, want string
		err        error
		says       string
	}{
		{path: "/real/dir", want: "/real/dir"},
		{path: "/rootlink/dir", want: "/real/dir"},
		{path: "/rootlink/inside", want: "/real/dir"},
		{path: "/real//dir/", want: "/real/dir"},
		{path: "/real/inside", want: "/real/dir"},
		{path: "/real/file", err: hostpath.ErrInvalid, says: "not a directory"},
		{path: "/real/outside", err: hostpath.ErrForbidden, says: "not below an allowed root"},
		{path: "/rootlink/outside/dir", err: hostpath.ErrForbidden, says: "leads to"},
		{path: "/real/outside/missing", err: hostpath.ErrForbidden, says: "not below"},
		{path: "/real/outside/missing/deeper", err: hostpath.ErrForbidden},
		{path: "/real/dir/missing/deeper", err: hostpath.ErrNotFound},
		{path: "/real/dangling", err: hostpath.ErrNotFound},
		{path: "/real/loop", err: hostpath.ErrInvalid},
		{path: "/real/missing", err: hostpath.ErrNotFound},
		{path: "/rootlink/missing", err: hostpath.ErrNotFound, says: "no such path"},
		{path: "/notyet/dir", err: hostpath.ErrNotFound, says: "notyet, which this daemon allows, does not exist"},
		{path: "/notyet", err: hostpath.ErrNotFound, says: "does not exist"},
		{path: "/realistic", err: hostpath.ErrForbidden},
		{path: "/secret", err: hostpath.ErrForbidden},
		{path: "/secret/missing", err: hostpath.ErrForbidden},
		{path: "/real/dir/../../secret", err: hostpath.ErrInvalid, says: ".."},
		{path: "/real/state", err: hostpath.ErrForbidden, says: "daemon itself"},
		{path: "/real/state/x", err: hostpath.ErrForbidden, says: "daemon itself"},
		{path: "/real", err: hostpath.ErrForbidden, says: "lies in it"},
		{path: "/rootlink", err: hostpath.ErrForbidden, says: "lies in it"},
		{path: "/real/bell\a", err: hostpath.ErrInvalid, says: "control character"},
		{path: "/real/\xff", err: hostpath.ErrInvalid, says: "not UTF-8"},
		{path: "/real/tobell", err: hostpath.ErrInvalid, says: "control character"},
		{path: "/images", err: hostpath.ErrForbidden}, // a root for images only
		{path: "/real/dir\x00", err: hostpath.ErrInvalid},
	}
	for _, tt := range tests {
		t.Run(strings.ReplaceAll(tt.path, "/", "_"), func(t *testing.T) {
			got, err := p.Dir(base + tt.path)
			check(t, base, got, tt.want, err, tt.err, tt.says)
		})
	}
	t.Run("relative", func(t *testing.T) {
		if _, err := p.Dir("dir"); !errors.Is(err, hostpath.ErrInvalid) {
			t.Errorf("relative directory: got %v, want ErrInvalid", err)
		}
	})
}

func TestFile(t *testing.T) {
	base, p := tree(t)
	tests := []struct {
		path, want string
		err        error
		says       string
	}{
		{path: base + "/real/file", want: "/real/file"},
		{path: base + "/images/disk.qcow2", want: "/images/disk.qcow2"},
		{path: "disk.qcow2", want: "/images/disk.qcow2"},
		{path: "./disk.qcow2", want: "/images/disk.qcow2"},
		{path: "../secret/file", err: hostpath.ErrInvalid},
		{path: "escape.qcow2", err: hostpath.ErrForbidden, says: "leads to"},
		{path: "missing.qcow2", err: hostpath.ErrNotFound},
		{path: base + "/real/dir", err: hostpath.ErrInvalid, says: "regular file"},
		{path: "/dev/null", err: hostpath.ErrForbidden},
		{path: base + "/real/filelink", err: hostpath.ErrForbidden},
	}
	for _, tt := range tests {
		t.Run(strings.ReplaceAll(strings.TrimPrefix(tt.path, base), "/", "_"), func(t *testing.T) {
			got, err := p.File(tt.path)
			check(t, base, got, tt.want, err, tt.err, tt.says)
		})
	}
}

func check(t *testing.T, base, got, want string, err, wantErr error, says string) {
	t.Helper()
	if !errors.Is(err, wantErr) {
		t.Fatalf("error: got %v, want %v", err, wantErr)
	}
	if err != nil && !strings.Contains(err.Error(), says) {
		t.Errorf("error %q does not say %q", err, says)
	}
	if err == nil && got != base+want {
		t.Errorf("got %s, want %s", got, base+want)
	}
}

// TestDeniedElsewhere: a denied folder is found in a shared one by its real
// place, whether it exists yet or not.
func TestDeniedElsewhere(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(base, "root/there"), 0o755))
	must(t, os.MkdirAll(filepath.Join(base, "root/free"), 0o755))
	must(t, os.Symlink("root/there", filepath.Join(base, "alias")))
	p, err := hostpath.New(hostpath.Options{Roots: []string{base}, Denied: []string{base + "/alias/not/yet"}})
	must(t, err)
	for path, want := range map[string]error{"": hostpath.ErrForbidden, "/root": hostpath.ErrForbidden, "/root/there": hostpath.ErrForbidden, "/root/free": nil} {
		if _, err := p.Dir(base + path); !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", path, err, want)
		}
	}
}

func TestNoRoots(t *testing.T) {
	p, err := hostpath.New(hostpath.Options{})
	must(t, err)
	if _, err := p.Dir("/etc"); !errors.Is(err, hostpath.ErrForbidden) || !strings.Contains(err.Error(), "allowedHostPaths") {
		t.Errorf("got %v, want ErrForbidden naming the setting", err)
	}
	if _, err := p.File("disk.qcow2"); !errors.Is(err, hostpath.ErrInvalid) {
		t.Errorf("relative file without an image directory: got %v, want ErrInvalid", err)
	}
}

func TestNewRefusesRelativeRoots(t *testing.T) {
	if _, err := hostpath.New(hostpath.Options{Roots: []string{"srv"}}); !errors.Is(err, hostpath.ErrInvalid) {
		t.Errorf("got %v, want ErrInvalid", err)
	}
}
