package guestscript_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"sandboxd.dev/sandboxd/providers/internal/guestscript"
)

// inner runs the script Inner as providers do, and returns what the command
// printed, what Inner reported on descriptor 4, and the exit code.
func inner(t *testing.T, shell string, dir string, env []string, command ...string) (stdout, reported string, code int) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"-c", "exec 4>&3 3>&-\n" + guestscript.Inner, "inner", "", dir, strconv.Itoa(len(env))}, env...)
	cmd := exec.CommandContext(t.Context(), shell, append(args, command...)...)
	cmd.ExtraFiles = []*os.File{w}
	cmd.Env = append(os.Environ(), "LC_ALL=C") // some shells complain of a locale that is not there
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err = cmd.Run()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	report := new(bytes.Buffer)
	if _, err := report.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	if stderr.Len() > 0 {
		t.Errorf("on standard error: %s", stderr.String())
	}
	return out.String(), strings.TrimSpace(report.String()), cmd.ProcessState.ExitCode()
}

func TestInner(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte("#!/bin/sh\nprintf '%s|' \"$0\" \"$@\" \"$n$w\"\n"), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	odd, plain := write("a=b", 0o755), write("plain", 0o644)
	write("in path", 0o755)
	for _, shell := range []string{"dash", "bash", "busybox"} {
		p, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("there is no %s", shell)
			continue
		}
		if shell == "busybox" {
			link := filepath.Join(t.TempDir(), "sh")
			if err := os.Symlink(p, link); err != nil {
				t.Fatal(err)
			}
			p = link
		}
		for name, tc := range map[string]struct {
			dir      string
			env      []string
			command  []string
			stdout   string
			reported string
			code     int
		}{
			"without variables": {command: []string{"printf", "%s|", "a b", "$x", ""}, stdout: "a b|$x||"},
			"variables that the script has itself": {
				env:     []string{"w=1", "n=2", "f=3", "p=4", "i=5", "c=6", "path=7"},
				command: []string{"sh", "-c", `echo "$w$n$f$p$i$c$path"`}, stdout: "1234567\n",
			},
			"variables that a shell does not let anybody set": {
				env: []string{"PPID=mine", "UID=mine"}, command: []string{"env"}, stdout: "PPID=mine\nUID=mine\n",
			},
			"the command is looked for where its environment says": {
				env: []string{"PATH=/nowhere", "PATH=/nowhere:" + dir}, command: []string{"in path", "x"}, stdout: dir + "/in path|x||",
			},
			"and nowhere else":                  {env: []string{"PATH=/nowhere"}, command: []string{"sh"}, reported: "missing", code: 127},
			"a command like a variable":         {command: []string{odd, "x"}, stdout: odd + "|x||"},
			"the same with variables":           {env: []string{"n=1", "w=2"}, command: []string{odd, "x", "", "y=z"}, stdout: odd + "|x||y=z|12|"},
			"a file without the bit":            {command: []string{plain}, reported: "denied", code: 126},
			"no such file":                      {command: []string{dir + "/none"}, reported: "missing", code: 127},
			"no such file, and it is a pattern": {command: []string{"*"}, reported: "missing", code: 127},
			"no such directory":                 {dir: dir + "/none", command: []string{"true"}, reported: "directory", code: 126},
			"a directory":                       {dir: "/", env: []string{"A=1"}, command: []string{"sh", "-c", "pwd; exit 3"}, stdout: "/\n", code: 3},
		} {
			t.Run(shell+": "+name, func(t *testing.T) {
				stdout, reported, code := inner(t, p, tc.dir, tc.env, tc.command...)
				if strings.Join(tc.command, " ") == "env" {
					stdout = only(stdout, "PPID=", "UID=")
				}
				if stdout != tc.stdout || reported != tc.reported || code != tc.code {
					t.Errorf("got %q, reported %q, exit code %d; want %q, %q, %d", stdout, reported, code, tc.stdout, tc.reported, tc.code)
				}
			})
		}
	}
}

// only keeps the lines with one of these beginnings.
func only(text string, beginnings ...string) string {
	var out strings.Builder
	for _, b := range beginnings {
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, b) {
				out.WriteString(line)
			}
		}
	}
	return out.String()
}
