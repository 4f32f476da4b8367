package virtualbox

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

// inside is a client for the guest of a machine.
func inside(t *testing.T, script string) (c *guestcontrol.Client, dir string) {
	t.Helper()
	p, dir := answering(t, runsHere+script)
	p.opts.Logins = anyLogin{}
	id := types.UID(uuid.NewString())
	return guestcontrol.New(guest{p, id, record{ID: id}}, p.data.Root), dir
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
			c, dir := inside(t, strings.NewReplacer("%DO%", tc.do, "%SAYS%", tc.says).Replace(fails))
			file := filepath.Join(dir, "file")
			_, err := c.Exec(t.Context(), providers.ExecRequest{Command: []string{"sh", "-c", `echo once >>"$1"`, "sh", file}})
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
