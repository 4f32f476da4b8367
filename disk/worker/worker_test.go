package worker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/disk/change"
)

func TestMain(m *testing.M) {
	if IsChild(os.Args) {
		os.Exit(Main())
	}
	if len(os.Args) == 2 && os.Args[1] == probe {
		os.Exit(probeConfined())
	}
	os.Exit(m.Run())
}

// tool finds a program that makes disks, or skips.
func tool(t testing.TB, name string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if path := filepath.Join(dir, name); exec.Command("test", "-x", path).Run() == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed", name)
	}
	t.Skipf("%s is not installed", name)
	return ""
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(tool(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// makeFS makes an ext4 file system of a folder.
func makeFS(t testing.TB, image, folder, size string, options ...string) {
	t.Helper()
	run(t, "mkfs.ext4", append(append([]string{"-q", "-F", "-d", folder}, options...), image, size)...)
}

func open(t testing.TB, format string, paths ...string) Disk {
	t.Helper()
	var d Disk
	for i, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		if i > 0 && strings.HasSuffix(path, ".raw") {
			format = "raw"
		}
		d.Layers = append(d.Layers, File{f, format})
	}
	return d
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, 0o644)); err != nil { // whatever the umask is
		t.Fatal(err)
	}
}

// diff tells the differences as lines.
func diff(t testing.TB, from, to Disk) (changes, notes []string) {
	t.Helper()
	err := New(Options{}).Diff(t.Context(), from, to, false, func(l change.Line) error {
		if l.Note != nil {
			notes = append(notes, l.Note.Message)
			return nil
		}
		what := slices.DeleteFunc(slices.Clone(l.Change.What), func(a change.Aspect) bool { return a == change.MTime })
		changes = append(changes, strings.TrimSpace(fmt.Sprintf("%s %s %s", l.Change.Op, l.Change.Path, strings.Trim(fmt.Sprint(what), "[]"))))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return changes, notes
}

func equal(t testing.TB, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// base is a disk with a few files.
func base(t testing.TB, options ...string) (folder, image string) {
	t.Helper()
	folder, image = filepath.Join(t.TempDir(), "tree"), filepath.Join(t.TempDir(), "base.raw")
	write(t, filepath.Join(folder, "etc/hosts"), "127.0.0.1 localhost\n")
	write(t, filepath.Join(folder, "etc/motd"), "hello\n")
	write(t, filepath.Join(folder, "usr/big"), strings.Repeat("0123456789abcdef", 1<<16))
	write(t, filepath.Join(folder, "gone/file"), "x")
	for i := range 300 {
		write(t, filepath.Join(folder, fmt.Sprintf("many/file-with-a-long-name-%d", i)), fmt.Sprint(i))
	}
	if err := os.Symlink("/etc/hosts", filepath.Join(folder, "link")); err != nil {
		t.Fatal(err)
	}
	makeFS(t, image, folder, "32M", options...)
	return folder, image
}

// edit changes an image with debugfs.
func edit(t testing.TB, image string, commands ...string) {
	t.Helper()
	script := filepath.Join(t.TempDir(), "commands")
	write(t, script, strings.Join(commands, "\n")+"\n")
	run(t, "debugfs", "-w", "-f", script, image)
}

func copyFile(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy.raw")
	run(t, "cp", "--sparse=always", from, to)
	return to
}

func TestDiff(t *testing.T) {
	for name, options := range map[string][]string{
		"ext4":        nil,
		"ext4 1K":     {"-b", "1024"},
		"ext4 4K":     {"-b", "4096"},
		"ext2":        {"-t", "ext2", "-O", "^extents,^64bit,^metadata_csum,^has_journal"},
		"ext3":        {"-t", "ext3", "-O", "^extents"},
		"small":       {"-I", "128"},
		"inline data": {"-O", "inline_data"},
		"meta_bg":     {"-O", "meta_bg,^resize_inode"},
		"bigalloc":    {"-O", "bigalloc"},
	} {
		t.Run(name, func(t *testing.T) {
			_, from := base(t, options...)
			changes, notes := diff(t, open(t, "raw", from), open(t, "raw", copyFile(t, from)))
			equal(t, changes)
			equal(t, notes)

			to := copyFile(t, from)
			added := filepath.Join(t.TempDir(), "added")
			write(t, added, "new\n")
			edit(t, to,
				"write "+added+" /etc/added", "rm /etc/motd", "write "+added+" /etc/motd",
				"set_inode_field /etc/hosts mode 0100600", "set_inode_field /usr/big uid 1000",
				"rm /gone/file", "rmdir /gone", "mkdir /dir", "write "+added+" /dir/below",
				"symlink /link2 /etc/hosts", "rm /many/file-with-a-long-name-250")
			changes, notes = diff(t, open(t, "raw", from), open(t, "raw", to))
			slices.Sort(changes)
			// The new motd has the size of the old one but two.
			equal(t, changes,
				"added /dir", "added /dir/below", "added /etc/added", "added /link2",
				"changed /etc/hosts mode", "changed /etc/motd size content", "changed /usr/big owner",
				"removed /gone", "removed /gone/file", "removed /many/file-with-a-long-name-250")
			equal(t, notes)
		})
	}
}

// One byte in the middle of a file, in an overlay: nothing else is told, and the
// rest is not read.
func TestDiffOverlay(t *testing.T) {
	_, raw := base(t, "-b", "4096")
	golden, top := filepath.Join(t.TempDir(), "golden.qcow2"), filepath.Join(t.TempDir(), "top.qcow2")
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, golden)
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", golden, "-F", "qcow2", top, "64M")
	changes, _ := diff(t, open(t, "qcow2", golden), open(t, "qcow2", top, golden))
	equal(t, changes)

	where := strings.Fields(run(t, "debugfs", "-R", "blocks /usr/big", raw))
	n := len(where) - 1
	block := where[n/2]
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 0x41 "+fmt.Sprint(atoi(t, block)*4096+77)+" 1", top)
	changes, _ = diff(t, open(t, "qcow2", golden), open(t, "qcow2", top, golden))
	equal(t, changes, "changed /usr/big content")
	changes, _ = diff(t, open(t, "qcow2", top, golden), open(t, "qcow2", golden))
	equal(t, changes, "changed /usr/big content")
	changes, _ = diff(t, open(t, "qcow2", top, golden), open(t, "raw", raw))
	equal(t, changes, "changed /usr/big content")
}

func atoi(t testing.TB, s string) (n int64) {
	t.Helper()
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return n
}

// Every format that an image may have reads the same.
func TestFormats(t *testing.T) {
	_, raw := base(t)
	for name, args := range map[string][]string{
		"qcow2 v2":   {"-O", "qcow2", "-o", "compat=0.10"},
		"compressed": {"-c", "-O", "qcow2"},
		"zstd":       {"-c", "-O", "qcow2", "-o", "compression_type=zstd"},
		"clusters":   {"-O", "qcow2", "-o", "cluster_size=512"},
		"large":      {"-O", "qcow2", "-o", "cluster_size=2M"},
		"vdi":        {"-O", "vdi"},
		"vdi static": {"-O", "vdi", "-o", "static=on"},
	} {
		t.Run(name, func(t *testing.T) {
			format := args[slices.Index(args, "-O")+1]
			image := filepath.Join(t.TempDir(), "image")
			run(t, "qemu-img", append(append([]string{"convert", "-f", "raw"}, args...), raw, image)...)
			changes, notes := diff(t, open(t, "raw", raw), open(t, format, image))
			equal(t, changes)
			equal(t, notes)
			archive, _ := pull(t, open(t, format, image), "/usr")
			if got := archive["big"]; got != strings.Repeat("0123456789abcdef", 1<<16) {
				t.Errorf("the file has %d other bytes", len(got))
			}
		})
	}
}

// pull unpacks an archive in memory.
func pull(t testing.TB, d Disk, path string) (map[string]string, Header) {
	t.Helper()
	var out bytes.Buffer
	var head Header
	err := New(Options{}).Archive(t.Context(), d, path, 1<<30, func(h Header) error { head = h; return nil }, &out)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, head
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(h.Name, "./")] = string(raw) + h.Linkname
	}
}

func TestArchive(t *testing.T) {
	_, raw := base(t)
	files, head := pull(t, open(t, "raw", raw), "/etc")
	if !head.Dir || len(files) != 3 || files["hosts"] != "127.0.0.1 localhost\n" || files["motd"] != "hello\n" {
		t.Errorf("%+v %q", head, files)
	}
	files, head = pull(t, open(t, "raw", raw), "/link") // leads to /etc/hosts
	if head.Dir || head.Size != 20 || files["hosts"] != "127.0.0.1 localhost\n" {
		t.Errorf("%+v %q", head, files)
	}
	for path, want := range map[string]error{"/nothing": ErrNotFound, "/etc/hosts/x": ErrNotFound, "/usr": ErrTooLarge} {
		err := New(Options{}).Archive(t.Context(), open(t, "raw", raw), path, 1000, func(Header) error { return nil }, io.Discard)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}

func TestUnsupported(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	write(t, image, "XFSB"+strings.Repeat("\x00", 1<<20))
	err := New(Options{}).Diff(t.Context(), open(t, "raw", image), open(t, "raw", image), false, func(change.Line) error { return nil })
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "xfs") {
		t.Errorf("%v", err)
	}
}

// A child that is told to stop is gone at once, and one that has nobody to talk to.
func TestCancelled(t *testing.T) {
	_, raw := base(t)
	ctx, cancel := context.WithCancel(t.Context())
	begun := time.Now()
	err := New(Options{}).Archive(ctx, open(t, "raw", raw), "/usr", 1<<30, func(Header) error { cancel(); return nil }, io.Discard)
	if err == nil {
		t.Log("it was done before it was stopped")
	}
	if time.Since(begun) > time.Minute {
		t.Errorf("it took %v", time.Since(begun))
	}
}
