package virtualbox_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// TestSecretsOfCommands: while a command with secrets runs in a guest, nobody on
// the host reads them in the arguments of a process.
func TestSecretsOfCommands(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a guest of its own: make test-virtualbox runs it")
	}
	l := newLab(t)
	ctx := context.Background()
	spec := l.spec("machine")
	spec.Image, spec.MemoryBytes = l.imported(t, v1.ImageSource{Disk: ptr(guestImage(t))}), 128<<20
	id := l.made(t, spec)
	must(t, l.p.Start(ctx, id))
	eventually(t, "the Guest Additions are up", func() bool { return l.get(t, id).Agent == providers.AgentConnected })

	const secret, password = "hunter2hunter2", "sandbox" // of the guest's user (login)
	var told []string
	calls := 0
	over, looked := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(looked)
		for {
			procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, path := range procs {
				b, _ := os.ReadFile(path)
				if strings.Contains(string(b), "guestcontrol\x00"+string(id)+"\x00run") {
					calls++
				}
				if strings.Contains(string(b), secret) || strings.Contains("\x00"+string(b), "\x00"+password+"\x00") {
					told = append(told, string(b))
				}
			}
			select {
			case <-over:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	var out strings.Builder
	_, err := l.p.Exec(ctx, id, providers.ExecRequest{
		Command: []string{"sh", "-c", `printf '%s|' "$TOKEN"; cat`}, Env: []string{"TOKEN=" + secret}, Stdin: strings.NewReader(secret), Stdout: &out,
	})
	if err != nil || out.String() != secret+"|"+secret {
		t.Errorf("the command printed %q, %v", out.String(), err)
	}
	if err := l.p.WriteFile(ctx, id, "/tmp/file", 0o600, strings.NewReader(secret)); err != nil {
		t.Error(err)
	}
	close(over)
	<-looked
	if len(told) > 0 || calls == 0 {
		t.Errorf("%d looks at a VBoxManage; it was told %.300q", calls, told)
	}
}
