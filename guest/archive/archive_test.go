package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tree lists what lies below a directory: names, kinds, modes and contents.
func tree(t testing.TB, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		info, err := entry.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %v", name, info.Mode())
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q", data)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestRoundTrip(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for _, step := range []error{
		os.MkdirAll(filepath.Join(from, "a/b/c"), 0o755),
		os.WriteFile(filepath.Join(from, "a/file"), []byte("text"), 0o640),
		os.WriteFile(filepath.Join(from, "a/b/run"), []byte("#!/bin/sh\n"), 0o755),
		os.WriteFile(filepath.Join(from, "empty"), nil, 0o600),
		os.Symlink("../file", filepath.Join(from, "a/b/link")),
		os.Chmod(filepath.Join(from, "a/b/c"), 0o555),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	var packed bytes.Buffer
	if err := Pack(context.Background(), from, &packed); err != nil {
		t.Fatal(err)
	}
	for range 2 { // over what is there, too
		if err := Unpack(context.Background(), bytes.NewReader(packed.Bytes()), to, DefaultLimits); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := tree(t, to), tree(t, from); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// entries makes an archive.
func entries(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		body := ""
		if h.Typeflag == tar.TypeReg {
			body = "hostile"
			h.Size = int64(len(body))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestHostile: whatever an archive says, nothing is made or changed outside of
// the directory, and no link leads out of it.
func TestHostile(t *testing.T) {
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	hard := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
	}
	dir := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }
	for name, headers := range map[string][]tar.Header{
		"absolute":                  {file("/etc/hostile")},
		"dots":                      {file("../hostile")},
		"dots inside":               {file("a/../../hostile")},
		"dots only":                 {dir("..")},
		"no name":                   {file("")},
		"link out":                  {link("l", "../secret")},
		"absolute link":             {link("l", "/etc/passwd")},
		"link out from below":       {link("a/l", "../../secret")},
		"through a link":            {link("l", "."), file("l/hostile")},
		"link behind a link":        {dir("p"), link("p/q", ".."), link("p/q/l", "../secret")},
		"deep link made shallow":    {dir("a"), dir("a/b"), link("a/b/up", "../.."), link("a/b/up/l", "../../x")},
		"link up through a link":    {dir("a"), dir("a/b"), link("a/b/up", "../.."), link("out", "a/b/up/../secret")},
		"link up through a later":   {link("out", "a/b/up/../secret"), dir("a"), dir("a/b"), link("a/b/up", "../..")},
		"link up through a planted": {link("out", "x/../planted/../secret")},
		"too many by their paths":   {file("a/b/c/d/e/f/x"), file("b/c/d/e/f/g/x")},
		"hard link out":             {hard("h", "../secret")},
		"hard link to absolute":     {hard("h", "/etc/passwd")},
		"hard link through a link":  {link("l", "s"), hard("h", "l")},
		"hard link to a link there": {hard("h", "planted")},
		"file over a directory":     {dir("d"), file("d")},
		"directory over a link":     {link("l", "x"), dir("l")},
		"existing link":             {file("planted/hostile")},
		"device":                    {{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}},
		"block device":              {{Typeflag: tar.TypeBlock, Name: "sda"}},
		"pipe":                      {{Typeflag: tar.TypeFifo, Name: "fifo"}},
		"too many":                  slices.Repeat([]tar.Header{file("x")}, 20),
		"too deep":                  {file(strings.Repeat("d/", 300) + "x")},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			to := filepath.Join(base, "to")
			for _, step := range []error{
				os.Mkdir(to, 0o755),
				os.WriteFile(filepath.Join(base, "secret"), []byte("secret"), 0o600),
				os.Symlink("..", filepath.Join(to, "planted")), // by somebody of the host
			} {
				if step != nil {
					t.Fatal(step)
				}
			}
			err := Unpack(context.Background(), bytes.NewReader(entries(t, headers...)), to, Limits{Entries: 10, Bytes: 1 << 20})
			if !errors.Is(err, ErrRefused) {
				t.Errorf("got %v, want a refusal", err)
			}
			checkContained(t, base, to)
		})
	}
}

// checkContained finds anything outside of the directory that was not there,
// and links inside that lead out.
func checkContained(t testing.TB, base, to string) {
	t.Helper()
	for _, line := range tree(t, base) {
		name, _, _ := strings.Cut(line, " ")
		if name != "to" && !strings.HasPrefix(name, "to/") && line != `secret -rw------- "secret"` {
			t.Errorf("outside of the directory there is %s", line)
		}
		path, isLink := filepath.Join(base, name), strings.Contains(line, " -> ")
		if !isLink || name == "to/planted" {
			continue
		}
		target, _ := os.Readlink(path)
		if filepath.IsAbs(target) {
			t.Errorf("%s leads out", line)
			continue
		}
		// Both as it is written and as the kernel follows it, if it leads anywhere.
		ends := []string{filepath.Join(filepath.Dir(path), target)}
		if real, err := filepath.EvalSymlinks(path); err == nil {
			ends = append(ends, real)
		}
		for _, full := range ends {
			if full != to && !strings.HasPrefix(full, to+"/") {
				t.Errorf("%s leads out", line)
			}
		}
	}
}

func TestLimitsAndModes(t *testing.T) {
	big := tar.Header{Typeflag: tar.TypeReg, Name: "big"}
	to := t.TempDir()
	if err := Unpack(context.Background(), bytes.NewReader(entries(t, big)), to, Limits{Entries: 1, Bytes: 6}); !errors.Is(err, ErrRefused) {
		t.Errorf("7 bytes where 6 are allowed: got %v", err)
	}
	setuid := tar.Header{Typeflag: tar.TypeReg, Name: "su", Mode: 0o6755}
	if err := Unpack(context.Background(), bytes.NewReader(entries(t, setuid)), to, DefaultLimits); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, to); !slices.Equal(got, []string{`su -rwxr-xr-x "hostile"`}) {
		t.Errorf("got %q", got)
	}
	cut := entries(t, tar.Header{Typeflag: tar.TypeReg, Name: "x"})[:514]
	if err := Unpack(context.Background(), bytes.NewReader(cut), t.TempDir(), DefaultLimits); err == nil {
		t.Error("an archive that was cut off was taken for whole")
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Unpack(ended, bytes.NewReader(entries(t, big)), t.TempDir(), DefaultLimits); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// FuzzUnpack: no archive gets out.
func FuzzUnpack(f *testing.F) {
	f.Add(entries(f, tar.Header{Typeflag: tar.TypeReg, Name: "a/b"}, tar.Header{Typeflag: tar.TypeSymlink, Name: "a/l", Linkname: "b"}))
	f.Add(entries(f, tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o700}, tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "a"}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		base := t.TempDir()
		to := filepath.Join(base, "to")
		if err := errors.Join(os.Mkdir(to, 0o755), os.WriteFile(filepath.Join(base, "secret"), []byte("secret"), 0o600)); err != nil {
			t.Fatal(err)
		}
		_ = Unpack(context.Background(), bytes.NewReader(raw), to, Limits{Entries: 50, Bytes: 1 << 20})
		// What is unreadable now would hide from the check.
		_ = filepath.WalkDir(to, func(path string, entry fs.DirEntry, _ error) error {
			if entry != nil && entry.IsDir() {
				_ = os.Chmod(path, 0o755)
			}
			return nil
		})
		checkContained(t, base, to)
	})
}
