package ext4

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// journaled makes a file system whose journal was not replayed: debugfs has written
// two transactions to it. It tells where the journal begins.
func journaled(t testing.TB, options ...string) (raw []byte, at int) {
	t.Helper()
	return journaledImage(t, "jo -c\njw -b 3000,3001 /new\njc\n", options...)
}

func journaledImage(t testing.TB, commands string, options ...string) (raw []byte, at int) {
	t.Helper()
	dir := t.TempDir()
	tree, file := filepath.Join(dir, "tree"), filepath.Join(dir, "image")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	text := bytes.Repeat([]byte("journal!"), 1024)
	if err := os.WriteFile(filepath.Join(dir, "new"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	// A block that looks like one of the journal itself, which is escaped there.
	escaped := append([]byte{0xc0, 0x3b, 0x39, 0x98}, bytes.Repeat([]byte{1}, 1020)...)
	if err := os.WriteFile(filepath.Join(dir, "escaped"), escaped, 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", append(append([]string{"-q", "-F", "-b", "1024", "-d", tree}, options...), file, "8M")...)
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte(strings.ReplaceAll(commands, "/new", dir+"/new")), 0o600); err != nil {
		t.Fatal(err)
	}
	out := run(t, "debugfs", "-w", "-f", script, file)
	if strings.Contains(strings.ToLower(out), "error") {
		t.Fatalf("debugfs: %s", out)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var block int
	words := strings.Fields(run(t, "debugfs", "-R", "bmap <8> 0", file))
	if _, err := fmt.Sscan(words[len(words)-1], &block); err != nil {
		t.Fatal(words, err)
	}
	return raw, block * 1024
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	path := "/usr/sbin/" + name
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not installed", name)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// What is read of a file system with a full journal is what e2fsck makes of it.
func TestJournal(t *testing.T) {
	for name, options := range map[string][]string{
		"checksums": nil, "64bit": {"-O", "64bit"},
		"plain": {"-O", "^metadata_csum,^64bit"}, "plain 64bit": {"-O", "^metadata_csum,64bit"},
	} {
		for what, commands := range map[string]string{
			"one":     "jo -c\njw -b 3000,3001,3002 /new\njc\n",
			"two":     "jo -c\njw -b 3000,3001 /new\njw -b 3001,3002 /new\njc\n",
			"revoked": "jo -c\njw -b 3000,3001 /new\njw -r 3001\njc\n",
			"none":    "jo\njc\n",
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				commands := commands
				if strings.HasPrefix(name, "plain") {
					commands = strings.ReplaceAll(commands, "jo -c", "jo")
				}
				raw, _ := journaledImage(t, commands, options...)
				fs, err := Open(bytes.NewReader(raw), int64(len(raw)))
				if err != nil {
					t.Fatal(err)
				}
				file := filepath.Join(t.TempDir(), "image")
				if err := os.WriteFile(file, raw, 0o600); err != nil {
					t.Fatal(err)
				}
				_, _ = exec.Command("/usr/sbin/e2fsck", "-y", "-E", "journal_only", file).CombinedOutput()
				replayed, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				changed := 0
				for n := uint64(2990); n < 3010; n++ {
					got := make([]byte, fs.blockSize)
					if err := fs.readBlocks(got, n); err != nil {
						t.Fatal(err)
					}
					at := int64(n) * fs.blockSize
					if !bytes.Equal(got, replayed[at:at+fs.blockSize]) {
						t.Errorf("block %d is another than e2fsck makes it", n)
					}
					if !bytes.Equal(got, raw[at:at+fs.blockSize]) {
						changed++
					}
				}
				if want := what != "none"; want != (changed > 0) || want != fs.Journal.Dirty {
					t.Errorf("%d blocks changed: %+v", changed, fs.Journal)
				}
			})
		}
	}
}
