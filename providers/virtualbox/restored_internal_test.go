package virtualbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
)

// Lines as VirtualBox 7.2 logs them.
const (
	restoringLine = "00:00:00.192259 Console: Machine state changed to 'Restoring'\n"
	runningLine   = "00:00:02.731079 Console: Machine state changed to 'Running'\n"
	lookedLine    = "00:00:04.625669 Guest Control: GUEST_MSG_REPORT_FEATURES: 0x7f, 0x8000000000000000\n"
	forgedLine    = "00:00:03.625669 VMMDev: Guest Log: 00:00:04.625669 Guest Control: GUEST_MSG_REPORT_FEATURES: 0x7f\n"
)

func TestSeesRestored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "VBox.log")
	if _, sees := seesRestored(path); !sees {
		t.Error("a guest without a log is waited for")
	}
	for name, c := range map[string]struct {
		log  string
		sees bool
	}{
		"booted":                         {runningLine, true},
		"restored":                       {restoringLine + runningLine, false},
		"restored and seen":              {restoringLine + runningLine + lookedLine, true},
		"restored and said by the guest": {restoringLine + runningLine + forgedLine, false},
		"half a line":                    {restoringLine + runningLine + strings.TrimSuffix(lookedLine, ": 0x7f, 0x8000000000000000\n"), true},
	} {
		if err := os.WriteFile(path, []byte(c.log), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, sees := seesRestored(path); sees != c.sees {
			t.Errorf("%s: got %v", name, sees)
		}
	}
}

// TestAwaitRestored: a guest is given nothing until it has seen that its memory was
// restored, and waited for once only.
func TestAwaitRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Provider{log: logr.Discard(), guest: newGuestStates("")}
		p.data.Root = t.TempDir()
		r := record{}
		r.ID = "web"
		path := p.logOf(r)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		took := func(ctx context.Context, log string) (time.Duration, error) {
			t.Helper()
			if err := os.WriteFile(path, []byte(log), 0o600); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			err := p.awaitRestored(ctx, r)
			return time.Since(begun), err
		}
		if d, err := took(t.Context(), runningLine); d != 0 || err != nil {
			t.Errorf("booted: %v, %v", d, err)
		}
		if err := os.WriteFile(path+".1", []byte(restoringLine+runningLine+lookedLine), 0o600); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(3*time.Second, func() {
			if err := os.Rename(path+".1", path); err != nil { // in one step: somebody reads it
				t.Error(err)
			}
		})
		if d, err := took(t.Context(), restoringLine+runningLine); d < 3*time.Second || d > 4*time.Second || err != nil {
			t.Errorf("seen after 3s: %v, %v", d, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := took(ctx, restoringLine); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller went away: %v", err)
		}
		if d, err := took(t.Context(), restoringLine); d < restoredIn || err != nil {
			t.Errorf("never seen: %v, %v", d, err)
		}
		if d, err := took(t.Context(), restoringLine); d != 0 || err != nil {
			t.Errorf("never seen, again: %v, %v", d, err)
		}
		p.guest.forget(r.ID)
		if d, err := took(t.Context(), restoringLine); d < restoredIn || err != nil {
			t.Errorf("never seen in another run: %v, %v", d, err)
		}
	})
}
