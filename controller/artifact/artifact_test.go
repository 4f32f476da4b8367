package artifact

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func fill(text string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	}
}

func TestWrite(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	// What an earlier run left, and a trap in the place of the file.
	if err := os.WriteFile(filepath.Join(dir, ".a.tar.part"), []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(dir, "a.tar")); err != nil {
		t.Fatal(err)
	}
	f, err := Write(dir, "a.tar", 5, fill("hello"))
	if err != nil || f.Size != 5 || f.Digest != "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" {
		t.Errorf("%+v, %v", f, err)
	}
	expect(t, dir, "a.tar", "hello")
	if raw, _ := os.ReadFile(victim); string(raw) != "untouched" {
		t.Errorf("the link was followed: %q", raw)
	}
	// One that fails leaves the one that is there.
	if _, err := Write(dir, "a.tar", 4, fill("world")); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v", err)
	}
	expect(t, dir, "a.tar", "hello")
	// The directory must be no link.
	link := filepath.Join(dir, "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(link, "b.tar", 9, fill("b")); err == nil {
		t.Error("a link was followed")
	}
}

// expect tells whether a file is all that there is of its name.
func expect(t *testing.T, dir, name, text string) {
	t.Helper()
	info, err := os.Lstat(filepath.Join(dir, name))
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	if raw, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(raw) != text {
		t.Errorf("%q, %v", raw, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "."+name+".part")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a part was left: %v", err)
	}
}
