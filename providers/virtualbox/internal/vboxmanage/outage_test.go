package vboxmanage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/providers"
)

// TestOutage has a thousand callers ask without a pause while VBoxSVC does not
// answer, counts the processes that are started, and lets it answer again.
func TestOutage(t *testing.T) {
	const callers, lasts = 1000, 3 * time.Second
	c, dir := program(t, `[ -e up ] && exit 0
echo 'VBoxManage: error: Failed to create the VirtualBox object!' >&2
exit 1`)
	begun := time.Now()
	asked := crowd(t, c, callers, lasts)
	n, took := c.Processes(), time.Since(begun) // longer where the machine is slow
	fmt.Printf("outage of VBoxSVC: %d callers asked %d times in %v, and %d processes were started\n", callers, asked, took, n)
	// Those that were on their way when it began, and five a second.
	if n > parallel+5*int64(took/time.Second) {
		t.Errorf("%d processes in %v", n, took)
	}
	if err := os.WriteFile(filepath.Join(dir, "up"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		_, err := c.Run(context.Background(), Call{Object: "x", Args: []string{"list", "vms"}})
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it answers, and nobody notices: %v", err)
		}
	}
	if _, err := c.Run(context.Background(), Call{Object: "x", Args: []string{"list", "vms"}}); err != nil {
		t.Errorf("after the outage: %v", err)
	}
}

// TestMissing has no VBoxManage.
func TestMissing(t *testing.T) {
	c := New(Options{Program: filepath.Join(t.TempDir(), "VBoxManage")})
	t.Cleanup(c.Close)
	crowd(t, c, 100, time.Second)
	if n := c.Processes(); n != 0 {
		t.Errorf("%d processes of a program that is not there", n)
	}
}

// crowd asks from many goroutines, and returns how often.
func crowd(t *testing.T, c *Client, callers int, lasts time.Duration) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lasts)
	defer cancel()
	var asked atomic.Int64
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for ctx.Err() == nil {
				_, err := c.Run(ctx, Call{Object: "x", Args: []string{"showvminfo", "x"}})
				if ctx.Err() == nil && !errors.Is(err, providers.ErrDown) {
					t.Errorf("got %v", err)
				}
				asked.Add(1)
			}
		})
	}
	all.Wait()
	return asked.Load()
}
