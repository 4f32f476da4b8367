//go:build linux

package e2e_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// logsIn logs in to a guest by `sandboxd ssh`, which runs the host's ssh through the
// daemon: words, streams and exit codes pass as ssh has them, also at a terminal; the
// host key is kept by the sandbox's UID; it counts as use.
func (h *host) logsIn(name, key, foreign string) {
	t := h.t
	t.Helper()
	begun := time.Now()
	t.Setenv("XDG_CONFIG_HOME", h.path("config"))
	login := func(key string, more ...string) []string {
		return slices.Concat([]string{"ssh", name, "-i", h.path(key), "-o", "BatchMode=yes"}, more)
	}
	if r := h.run("", login(key, "--", "echo", "hi")...); r.code != 0 || r.out != "hi\n" {
		t.Errorf("a command by ssh: %+v", r)
	}
	data := randomBytes(200_000)
	if r := h.run(string(data), login(key, "-o", "LogLevel=ERROR", "--", "cat; echo to stderr >&2; exit 3")...); r.code != 3 || !bytes.Equal([]byte(r.out), data) || r.err != "to stderr\n" {
		t.Errorf("%d bytes by ssh came back as %d; exit %d, %q", len(data), len(r.out), r.code, r.err)
	}
	if r := h.run("", login(foreign, "--", "true")...); r.code != 255 || !strings.Contains(r.err, "Permission denied") {
		t.Errorf("a key that nobody allowed: %+v", r)
	}
	uid := h.ok("get", "sandbox", name, "-o", "jsonpath={.metadata.uid}")
	known, err := os.ReadFile(filepath.Join(h.path("config"), "sandboxd", "known_hosts"))
	if err != nil || strings.Count(string(known), "\n") != 1 || !strings.HasPrefix(string(known), uid+" ") {
		t.Errorf("the host keys are %q, %v", known, err)
	}

	used := time.Now().Truncate(time.Second).Add(time.Second) // which nothing else is after
	time.Sleep(time.Until(used))
	p, cmd := h.sitDown(101, 33, login(key, "-t", "--", "tty && stty size; exit 5")...)
	select {
	case err := <-p.ended:
		t.Logf("ssh at a terminal: %v", err)
	case <-time.After(patience):
		t.Fatalf("ssh does not end: %q", p.shown.String())
	}
	h.shows(&p.shown, "33 101\r\n")
	if code := cmd.ProcessState.ExitCode(); code != 5 || !strings.Contains(p.shown.String(), "/dev/pts/") {
		t.Errorf("the terminal by ssh ends with exit %d after %q", code, p.shown.String())
	}
	h.eventually("the login counted as use", func() error {
		at, err := time.Parse(time.RFC3339, h.field(name, ".status.lastUsedAt"))
		if err != nil || at.Before(used) {
			return fmt.Errorf("it was last used at %v, %v, and the login began at %v", at, err, used)
		}
		return nil
	})
	h.t.Logf("logged in to %s by ssh for %v", name, time.Since(begun).Round(100*time.Millisecond))
}
