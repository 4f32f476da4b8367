package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// image makes a small file system, or skips.
func image(t testing.TB, options ...string) []byte {
	t.Helper()
	const mkfs = "/usr/sbin/mkfs.ext4"
	if _, err := os.Stat(mkfs); err != nil {
		t.Skip("mkfs.ext4 is not installed")
	}
	dir, file := filepath.Join(t.TempDir(), "tree"), filepath.Join(t.TempDir(), "image")
	for name, text := range map[string]string{"a/b/c": "hello", "d": string(bytes.Repeat([]byte("x"), 5000)), "e": ""} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a/b", filepath.Join(dir, "l")); err != nil {
		t.Fatal(err)
	}
	args := append(append([]string{"-q", "-F", "-N", "32", "-d", dir}, options...), file, "256K")
	if out, err := exec.Command(mkfs, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// edit is one change that the fuzzer makes to a good file system.
const editSize = 6

// FuzzFS changes bytes of a good file system and reads all of it: an error or
// contents, but never a panic, and soon. The input is a list of edits: the offset
// (four bytes), how many bytes (one), and which (one).
func FuzzFS(f *testing.F) {
	good := [][]byte{image(f), image(f, "-O", "inline_data"), image(f, "-O", "^extents,^has_journal,^64bit")}
	f.Add(uint8(0), []byte{})
	f.Add(uint8(1), []byte{0, 0, 4, 24, 4, 0xff})
	f.Add(uint8(2), []byte{0, 0, 4, 0x60, 4, 4})
	f.Fuzz(func(t *testing.T, which uint8, edits []byte) {
		raw := bytes.Clone(good[int(which)%len(good)])
		for ; len(edits) >= editSize; edits = edits[editSize:] {
			at := int(binary.BigEndian.Uint32(edits)) % len(raw)
			for i := at; i < min(len(raw), at+int(edits[4]%16)); i++ {
				raw[i] = edits[5]
			}
		}
		begun := time.Now()
		readEverything(raw)
		if took := time.Since(begun); took > time.Minute {
			t.Errorf("it took %v", took)
		}
	})
}

// readEverything walks a file system as far as it goes.
func readEverything(raw []byte) (files int) {
	fs, err := Open(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		return 0
	}
	seen := map[uint32]bool{}
	var walk func(number uint32)
	walk = func(number uint32) {
		if seen[number] {
			return
		}
		seen[number] = true
		ino, err := fs.Inode(number)
		if err != nil {
			return
		}
		files++
		_, _ = fs.Xattrs(ino)
		_, _ = fs.Readlink(ino)
		if f, err := fs.OpenFile(ino); err == nil {
			_, _ = io.CopyN(io.Discard, io.NewSectionReader(f, 0, f.Size()), 1<<20)
			for off := int64(0); off < min(f.Size(), 1<<20); {
				off += max(1, f.Piece(off).Length)
			}
		}
		if !ino.IsDir() {
			return
		}
		list, _ := fs.ReadDir(ino)
		for _, e := range list {
			walk(e.Inode)
		}
	}
	walk(RootInode)
	_, _, _ = fs.Resolve("/l/c", true)
	return files
}

func TestReadEverything(t *testing.T) {
	for _, options := range [][]string{nil, {"-O", "inline_data"}, {"-O", "^extents,^has_journal,^64bit"}} {
		// The root, lost+found, and what was put there.
		if n := readEverything(image(t, options...)); n != 8 {
			t.Errorf("%q: %d files", options, n)
		}
	}
}

// FuzzJournal reads a journal of any content.
func FuzzJournal(f *testing.F) {
	if _, err := os.Stat("/usr/sbin/mkfs.ext4"); err != nil {
		f.Skip("mkfs.ext4 is not installed")
	}
	good, at := journaled(f)
	f.Add(good[at : at+8192])
	f.Fuzz(func(t *testing.T, log []byte) {
		raw := bytes.Clone(good)
		copy(raw[at:], log[:min(len(log), len(raw)-at)])
		readEverything(raw)
	})
}
