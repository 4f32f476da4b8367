package libvirtconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"

	"sandboxd.dev/sandboxd/providers"
)

// counting counts the attempts to connect that failed.
type counting struct {
	backoff.BackOff
	attempts atomic.Int32
}

func (c *counting) NextBackOff() time.Duration {
	c.attempts.Add(1)
	return c.BackOff.NextBackOff()
}

// TestCrowd has a thousand callers ask a daemon without a pause that is not there,
// refuses or says nothing, and counts the attempts to connect.
func TestCrowd(t *testing.T) {
	const callers, lasts = 1000, 3 * time.Second
	refusing := func(t *testing.T) string {
		socket := filepath.Join(t.TempDir(), "s")
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		_ = l.Close()
		return socket
	}
	for name, socket := range map[string]func(t *testing.T) string{
		"absent":   func(t *testing.T) string { return filepath.Join(t.TempDir(), "none") },
		"refusing": refusing,
		"deaf": func(t *testing.T) string {
			s, _ := deafDaemon(t)
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, socket(t))
			count := &counting{BackOff: c.outage.pause}
			c.outage.pause = count
			begun := time.Now()
			ctx, cancel := context.WithTimeout(context.Background(), lasts)
			defer cancel()
			var asked atomic.Int64
			var crowd sync.WaitGroup
			crowd.Go(func() { c.Watch(ctx, func() {}, func(Event) {}) })
			for i := range callers {
				crowd.Go(func() {
					link := c.Lifecycle()
					if i%4 == 0 {
						link = c.Agent(fmt.Sprint(i))
					}
					for ctx.Err() == nil {
						err := ask(ctx, link, Quick)
						if ctx.Err() == nil && !errors.Is(err, providers.ErrDown) {
							t.Errorf("got %v", err)
						}
						asked.Add(1)
						time.Sleep(5 * time.Millisecond) // leave the processor to others
					}
				})
			}
			crowd.Wait()
			attempts, took := count.attempts.Load(), time.Since(begun) // longer where the machine is slow
			fmt.Printf("outage of libvirt, %s: %d callers asked %d times in %v, and %d attempts to connect were made\n",
				name, callers, asked.Load(), took, attempts)
			if attempts > 5*int32(took/time.Second) {
				t.Errorf("%d attempts in %v", attempts, took)
			}
		})
	}
}
