package virtualbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

// answering is a provider whose VBoxManage is a script, which works in the folder
// that is returned. The provider's data lie in its subfolder data.
func answering(t *testing.T, script string) (*Provider, string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "VBoxManage")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nset -eu\ncd "+dir+"\n"+wholeOutputs+script), 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := New(Options{Instance: "test", DataDir: filepath.Join(dir, "data"), Manage: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p, dir
}

// TestOthersAgents: while an agent of ours is awaited, the agent of somebody
// else's machine is neither an event nor a reason to look again at once.
func TestOthersAgents(t *testing.T) {
	ours, theirs := types.UID(uuid.NewString()), types.UID(uuid.NewString())
	p, dir := answering(t, fmt.Sprintf(`case "$1 $2" in
"list --multiple")
	echo '[vms]'; printf '"x" {%%s}\n' %[1]s %[2]s
	echo; echo '[runningvms]'; printf '"x" {%%s}\n' %[1]s %[2]s ;;
"showvminfo "*)
	echo >>looks
	level=0; [ ! -e up ] || level=2
	echo "CfgFile=\"$PWD/data/machines/$2/x/x.vbox\""
	printf 'VMState="running"\nGuestAdditionsRunLevel=%%s\n' $level ;;
esac
`, ours, theirs))
	rec := record{ID: ours, Instance: "test", VM: "x"}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Dir(p.logOf(rec)), 0o700))
	must(p.writeRecord(rec))
	logged := func() {
		t.Helper()
		f, err := os.OpenFile(p.logOf(rec), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		must(err)
		_, err = f.WriteString("00:00:06.7 VMMDev: Guest Additions information report: Version 6.0.0\n")
		must(errors.Join(err, f.Close()))
	}
	logged()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	events := p.Events(ctx)
	looks := func() int {
		b, _ := os.ReadFile(filepath.Join(dir, "looks"))
		return strings.Count(string(b), "\n")
	}
	timeout := time.After(time.Minute)
	for looked := false; ; {
		if !looked && looks() >= 2 { // time for anything of theirs to be told
			looked = true
			must(os.WriteFile(filepath.Join(dir, "up"), nil, 0o600))
		}
		logged()
		select {
		case e := <-events:
			if e.ID == theirs {
				t.Fatalf("somebody else's machine makes the event %+v", e)
			}
			if e.Type == providers.EventGuest {
				if !looked {
					t.Fatalf("the event %+v came before the agent", e)
				}
				return
			}
		case <-time.After(50 * time.Millisecond):
		case <-timeout:
			t.Fatalf("the agent of our own machine made no event in %d looks", looks())
		}
	}
}

// TestOldListing: a listing that shows a machine off ends the calls into it unless
// they began later, on a machine that was seen to run; the next listing ends those
// too, although nothing has changed.
func TestOldListing(t *testing.T) {
	p, _ := answering(t, "")
	id := types.UID(uuid.NewString())
	on, off := view{on: map[types.UID]bool{id: true}}, view{on: map[types.UID]bool{}}
	ignore := func(providers.EventType, types.UID) {}
	seen := time.Now()
	inside, done := p.guest.attend(t.Context(), id, seen)
	defer done()
	p.compare(&on, off, nil, seen.Add(-time.Second), ignore)
	if inside.Err() != nil {
		t.Error("a listing from before ended it")
	}
	p.compare(&off, off, nil, seen.Add(time.Second), ignore)
	if inside.Err() == nil {
		t.Error("it goes on in a machine that is off")
	}
}
