//go:build linux

package e2e_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// canaries are secrets of a sandbox's life, as they are and as base64 has them.
var canaries = []string{"canary-password", "Y2FuYXJ5LXBhc3N3b3Jk", "canary-userdata", "canary-key", "canary-env", "canary-stdin", "canary-file"}

// TestSecrets: a whole life on a real libvirt, and no secret of it in the arguments of
// any process of the host, in libvirt's definition, in the log at debug level, in
// events or conditions, nor in a file that other users of the host may read.
func TestSecrets(t *testing.T) {
	h := newHost(t)
	over, looked := make(chan struct{}), make(chan map[string]bool)
	go watchArguments(over, looked)
	h.apply(`
apiVersion: v1
kind: Secret
metadata: {name: login}
stringData: {password: canary-password}
---
apiVersion: sandboxd.dev/v1
kind: GoldenImage
metadata: {name: tiny}
spec:
  source: {disk: {path: tiny.qcow2}}
  guest: {user: root, passwordSecretRef: {name: login}}
---
`+sandbox("web", `, cloudInit: {userData: "#cloud-config\npassword: canary-userdata\n", sshAuthorizedKeys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4nZ1Zl0zV5cC7iXo9bQ2Yq9mW6b7m3uB5m2o1p9q3r canary-key]}`), "--wait", "--timeout", "12m")
	if r := h.run("canary-stdin", "exec", "-i", "-e", "TOKEN=canary-env", "web", "--", "sh", "-c", `cat; printf %s "$TOKEN"`); r.out != "canary-stdincanary-env" {
		t.Errorf("exec: %+v", r)
	}
	h.run("canary-stdin", "exec", "-i", "-e", "TOKEN=canary-env", "web", "--", "no-such-program")
	must(t, os.WriteFile(h.path("file"), []byte("canary-file"), 0o600))
	h.ok("cp", "file", "web:/root/file")
	told := map[string]string{
		"libvirt's definition": virsh(t, "dumpxml", strings.TrimSpace(h.ok("get", "sbx", "web", "-o", "jsonpath={.status.machineID}"))),
		"the status":           h.ok("get", "sbx,gi", "-o", "jsonpath={.items[*].status}"),
		"an event":             h.ok("get", "events", "-A", "-o", "json"),
	}
	readable(t, h.path("data"), told)
	h.ok("delete", "sandbox", "web")
	h.ok("delete", "goldenimage", "tiny")
	h.cleanedUp()
	h.stop()
	close(over)
	for line := range <-looked {
		told["the arguments of a process: "+line] = line
	}
	told["the log"] = h.log()
	for place, text := range told {
		for _, canary := range canaries {
			if i := strings.Index(text, canary); i >= 0 {
				t.Errorf("%s tells %q: …%.200q", place, canary, text[max(0, i-100):])
			}
		}
	}
}

// watchArguments looks at the arguments of all processes that are not the test's own
// commands, and tells those with a canary. A command line with `-e` is its user's word.
func watchArguments(over <-chan struct{}, looked chan<- map[string]bool) {
	found := map[string]bool{}
	for {
		all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, path := range all {
			b, _ := os.ReadFile(path)
			line := strings.ReplaceAll(string(b), "\x00", " ")
			for _, canary := range canaries {
				if strings.Contains(line, canary) && !strings.Contains(line, "sandboxd exec ") {
					found[fmt.Sprintf("%.300s", line)] = true
				}
			}
		}
		select {
		case <-over:
			looked <- found
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// readable adds the files below a folder that every user of the host may read: their
// own modes let him, and those of all folders on the way.
func readable(t *testing.T, root string, told map[string]string) {
	t.Helper()
	files := 0
	must(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != root {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := entry.Info()
		switch {
		case errors.Is(err, fs.ErrNotExist): // the daemon goes on working there
			return nil
		case err != nil:
			return err
		case entry.IsDir() && info.Mode().Perm()&0o001 == 0:
			files++
			return fs.SkipDir
		case !entry.Type().IsRegular():
			return nil
		}
		if files++; info.Mode().Perm()&0o004 == 0 {
			return nil
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		told[path] = string(b)
		return err
	}))
	if files < 2 {
		t.Errorf("there are %d files and closed folders only", files)
	}
}
