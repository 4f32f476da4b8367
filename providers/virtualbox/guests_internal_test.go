package virtualbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/guestcontrol"
)

type anyLogin struct{}

func (anyLogin) LoginOf(context.Context, string, string, types.UID) (providers.Login, error) {
	return providers.Login{User: "root", Password: "secret"}, nil
}

// runsHere is what a VBoxManage does whose guests are this host: it leaves $verb,
// and the arguments of what is to be run.
const runsHere = `verb=$3
while [ "$#" -gt 0 ] && [ "$1" != -- ]; do shift; done
[ "$#" = 0 ] || shift
`

// inside is a provider, a machine of it that runs, and the folder where its
// VBoxManage works.
func inside(t *testing.T, script string) (p *Provider, m machine, dir string) {
	t.Helper()
	p, dir = answering(t, runsHere+script)
	p.opts.Logins = anyLogin{}
	id := types.UID(uuid.NewString())
	return p, machine{id: id, record: record{ID: id}}, dir
}

// execute runs a command in a machine.
func (p *Provider) execute(ctx context.Context, m machine, req providers.ExecRequest) error {
	return p.visit(ctx, m, func(ctx context.Context, c *guestcontrol.Client, _ machine) error {
		_, err := c.Exec(ctx, req)
		return err
	})
}

// TestOnce: a command that may have been started is not started again, whatever
// VirtualBox says of its end; one that was not, is.
func TestOnce(t *testing.T) {
	const fails = `[ ! -e failed ] || exec /bin/sh "$@"
echo >failed
%DO%
echo "VBoxManage: error: %SAYS%
VBoxManage: error: Details: code VBOX_E_GSTCTL_GUEST_ERROR (0x80bb000f), component GuestWrap" >&2
exit 1
`
	const starts, silently = `/bin/sh "$@" 2>/dev/null | grep -a start`, `/bin/sh "$@" >/dev/null 2>&1`
	for name, tc := range map[string]struct {
		do, says string
		fails    bool
	}{
		"not ready":                  {":", "The guest execution service is not ready (yet)", false},
		"lost after its start":       {starts, "The guest execution service is not ready (yet)", true},
		"lost, with another message": {silently, "Waiting for guest process failed: VERR_INTERRUPTED", true},
	} {
		t.Run(name, func(t *testing.T) {
			p, m, dir := inside(t, strings.NewReplacer("%DO%", tc.do, "%SAYS%", tc.says).Replace(fails))
			file := filepath.Join(dir, "file")
			err := p.execute(t.Context(), m, providers.ExecRequest{Command: []string{"sh", "-c", `echo once >>"$1"`, "sh", file}})
			if (err != nil) != tc.fails {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(name, "another") && strings.Contains(err.Error(), "not ready") {
				t.Errorf("it says %v", err)
			}
			if b, err := os.ReadFile(file); err != nil || string(b) != "once\n" {
				t.Errorf("the command left %q, %v", b, err)
			}
		})
	}
}

// TestCloseKillsCommands: a command does not outlive the provider, nor does a
// VBoxManage that waits for it when the guest does not answer any more.
func TestCloseKillsCommands(t *testing.T) {
	p, m, dir := inside(t, `exec /bin/sh "$@"`)
	pids := filepath.Join(dir, "pids")
	done := make(chan error, 1)
	go func() {
		done <- p.execute(context.Background(), m, providers.ExecRequest{Command: []string{"sh", "-c", `sleep 1000 & echo $$ $! >"$1"; wait`, "sh", pids}})
	}()
	var found []string
	for end := time.Now().Add(time.Minute); len(found) < 2 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		b, _ := os.ReadFile(pids)
		found = strings.Fields(string(b))
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-done:
		if !errors.Is(err, providers.ErrUnavailable) {
			t.Errorf("the command's caller got %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("the command's caller got nothing")
	}
	if len(found) != 2 {
		t.Fatalf("the command wrote %q", found)
	}
	for _, pid := range found {
		if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(stat), ") Z ") {
			t.Errorf("process %s is still there: %s", pid, stat)
		}
	}
	if err := p.execute(t.Context(), m, providers.ExecRequest{Command: []string{"touch", filepath.Join(dir, "late")}}); !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("after the end: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "late")); err == nil {
		t.Error("after the end a command was run")
	}
}
