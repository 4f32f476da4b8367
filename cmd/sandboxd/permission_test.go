package main

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestNoPermission: whoever may not use the socket is told what to do, and
// nothing else.
func TestNoPermission(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	const nobody = 65534
	dir, err := os.MkdirTemp("/tmp", "sandboxd-permission-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	socket, program := filepath.Join(dir, "s.sock"), filepath.Join(dir, "sandboxd")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	self, err := os.ReadFile("/proc/self/exe") // it is sandboxd under that name, see TestMain
	if err == nil {
		err = os.WriteFile(program, self, 0o755)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o755, socket: 0o660} {
		if err == nil {
			err = os.Chmod(path, mode)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	const daemonGroup = 1 // exists on every Linux, under one name or another
	group1, err := user.LookupGroupId("1")
	if err != nil {
		t.Fatal(err)
	}
	for group, want := range map[int]string{
		0: "permission denied: ask its owner for access, or run the command as root",
		daemonGroup: "permission denied: join the group " + group1.Name + " (sudo usermod -aG " + group1.Name +
			" nobody, then log in again)",
	} {
		if err := os.Chown(socket, 0, group); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"get", "sandboxes"}, {"exec", "x", "--", "true"}, {"version"}} {
			cmd := exec.Command(program, args...)
			cmd.Args[0] = "sandboxd"
			cmd.Env = []string{"SANDBOXD_SOCKET=" + socket}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Run(); err == nil {
				t.Errorf("%v: it did not fail", args)
			}
			if got := stderr.String(); got != "error: cannot reach the sandboxd daemon at "+socket+": "+want+"\n" || strings.Count(got, "\n") != 1 {
				t.Errorf("%v: got %q", args, got)
			}
		}
	}
}
