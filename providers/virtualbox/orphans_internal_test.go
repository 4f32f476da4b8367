package virtualbox

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
)

// TestEndProcess: what is left of a machine that was deleted is ended, and nobody
// else's process of the same name.
func TestEndProcess(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc")
	}
	const id types.UID = "f612d688-8cb9-5d28-bad9-be9ce46a5887"
	p := &Provider{log: logr.Discard()}
	p.data.Root = t.TempDir()
	for _, dir := range []string{p.data.MachineDir(id), t.TempDir()} {
		ours := dir == p.data.MachineDir(id)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		log, err := os.Create(filepath.Join(dir, "VBox.log"))
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/bin/sh")
		cmd.Args = []string{"/usr/lib/virtualbox/VBoxHeadless", "-c", "exec >&-; read line", "--comment", "web", "--startvm", string(id)}
		cmd.ExtraFiles = []*os.File{log}
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := stdout.Read(make([]byte, 1)); err == nil { // until it is the shell
			t.Error("it says something")
		}
		_ = log.Close()
		if err := os.Remove(log.Name()); err != nil { // VirtualBox has deleted it
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.endProcess(ctx, id); ours != errors.Is(err, context.Canceled) {
			t.Errorf("ours %v, without time: %v", ours, err)
		}
		if err := p.endProcess(t.Context(), id); err != nil {
			t.Error(err)
		}
		_ = stdin.Close() // which ends it, if nobody has
		err = cmd.Wait()
		if killed := cmd.ProcessState.ExitCode() == -1; killed != ours {
			t.Errorf("ours %v: it ended by %v", ours, err)
		}
	}
}

func TestMachineOf(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want types.UID
	}{
		"by VBoxSVC":   {[]string{"/usr/lib/virtualbox/VBoxHeadless", "--comment", "web", "--startvm", "u", "--vrde", "config"}, "u"},
		"by hand":      {[]string{"VBoxHeadless", "--startvm", "u"}, ""},
		"cut off":      {[]string{"VBoxHeadless", "--comment", "web", "--startvm"}, ""},
		"another":      {[]string{"VBoxManage", "--comment", "web", "--startvm", "u"}, ""},
		"without args": {[]string{""}, ""},
	} {
		if got, ok := machineOf(c.args); got != c.want || ok != (c.want != "") {
			t.Errorf("%s: %q, %v", name, got, ok)
		}
	}
}
