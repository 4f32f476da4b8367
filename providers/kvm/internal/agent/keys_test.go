package agent

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// userGuest is a guest in which one user has a home directory. The rest of it
// is this host, with a list of users of the test's own.
func userGuest(t *testing.T) (c *Client, home string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root runs commands as another user")
	}
	dir := t.TempDir()
	home = filepath.Join(dir, "home")
	for d := home; d != os.TempDir() && d != "/"; d = filepath.Dir(d) { // the user must get there
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(home, 4242, 4242); err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(dir, "passwd")
	text := fmt.Sprintf("root:*:0:0::/root:/bin/sh\nguest:*:4242:4242::%s:/bin/false\nhomeless:*:4243:4243::/nonexistent:/bin/sh\n", home)
	if err := os.WriteFile(users, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("unshare", "--mount", "mount", "--bind", users, "/etc/passwd").CombinedOutput(); err != nil {
		t.Skipf("a mount namespace of the test's own is not permitted: %s", out)
	}
	g := newLocalGuest(t)
	g.wrap = []string{"unshare", "--mount", "sh", "-c", `mount --bind "$1" /etc/passwd && shift && exec "$@"`, "sh", users}
	return New(g.send), home
}

func TestKeysByScript(t *testing.T) {
	c, home := userGuest(t)
	ctx := context.Background()
	file := filepath.Join(home, ".ssh/authorized_keys")
	for _, keys := range [][]string{{"ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two"}, {"ssh-ed25519 CCCC"}, nil} {
		if err := c.SetKeys(ctx, "guest", keys); err != nil {
			t.Fatal(err)
		}
		want := strings.Join(append(keys, ""), "\n")
		if len(keys) == 0 {
			want = ""
		}
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != want || info.Mode().Perm() != 0o600 {
			t.Errorf("got %q, %v, %v; want %q", got, info.Mode(), err, want)
		}
	}
	for user, says := range map[string]string{"nobody-here": "no user", "homeless": "home directory"} {
		if err := c.SetKeys(ctx, user, nil); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", user, err)
		}
	}
}

// TestKeysFollowNoLinks: a user of the guest cannot have others' files changed
// by links in his home directory.
func TestKeysFollowNoLinks(t *testing.T) {
	for name, plant := range map[string]func(home, other string) error{
		"the directory": func(home, other string) error { return os.Symlink(other, filepath.Join(home, ".ssh")) },
		"the new file": func(home, other string) error {
			if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o777); err != nil {
				return err
			}
			return os.Symlink(filepath.Join(other, "file"), filepath.Join(home, ".ssh/.sandboxd"))
		},
	} {
		c, home := userGuest(t)
		other := filepath.Join(filepath.Dir(home), "other")
		file := filepath.Join(other, "file")
		for _, err := range []error{os.Mkdir(other, 0o755), os.WriteFile(file, []byte("root's"), 0o644), plant(home, other)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		before := list(t, other)
		if err := c.SetKeys(context.Background(), "guest", []string{"ssh-ed25519 AAAA"}); err == nil {
			t.Errorf("%s: no error", name)
		}
		content, err := os.ReadFile(file)
		if after := list(t, other); err != nil || string(content) != "root's" || after != before {
			t.Errorf("%s: there was\n%s\nand now there is\n%s%q, %v", name, before, after, content, err)
		}
	}
}

// list lists a directory with owners and modes.
func list(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("ls", "-lnR", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("ls: %v: %s", err, out)
	}
	return string(out)
}
