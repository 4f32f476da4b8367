package conformance

import (
	"context"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

// consoleLog reads a machine's console as far as it goes.
func (s *suite) consoleLog(t testing.TB, id types.UID, tail int64) string {
	t.Helper()
	r, err := s.p.Console(s.ctx(t), id, providers.ConsoleOptions{TailBytes: tail})
	must(t, "console", err)
	defer func() { _ = r.Close() }()
	b, err := io.ReadAll(io.LimitReader(r, maxOutput))
	must(t, "read the console", err)
	return string(b)
}

// say makes the guest write a line to its console.
func (s *suite) say(t testing.TB, id types.UID, line string) {
	t.Helper()
	s.sh(t, id, `echo "$1" > /dev/console`, line)
}

func (s *suite) testConsoleBoot(t *testing.T) {
	s.need(t, Console)
	id := s.guest(t)
	eventually(t, s.b.Limits.Call, func() string {
		if strings.TrimSpace(s.consoleLog(t, id, -1)) == "" {
			return "a guest that has booted said nothing on its console"
		}
		return ""
	})
}

func (s *suite) testConsoleFollow(t *testing.T) {
	s.detail(t)
	s.need(t, Console)
	id := s.guest(t)
	ctx, cancel := context.WithCancel(within(t, s.b.Limits.Boot))
	defer cancel()
	r, err := s.p.Console(ctx, id, providers.ConsoleOptions{Follow: true})
	must(t, "console", err)
	defer func() { _ = r.Close() }()
	out := &signalled{text: "follow this", seen: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(out, r)
		done <- err
	}()
	s.say(t, id, "follow this")
	select {
	case <-out.seen:
	case err := <-done:
		t.Fatalf("the console ended before the line was seen: %v", err)
	}
	cancel()
	want(t, "read after the end of the context", <-done, context.Canceled)
}

func (s *suite) testConsoleTail(t *testing.T) {
	s.detail(t)
	s.need(t, Console)
	id := s.guest(t)
	s.say(t, id, "the last line")
	eventually(t, s.b.Limits.Call, func() string {
		if log := s.consoleLog(t, id, -1); !strings.Contains(log, "the last line") {
			return "the line is not in the log"
		}
		return ""
	})
	// The guest may say more in between, so a few looks are allowed.
	eventually(t, s.b.Limits.Call, func() string {
		all := s.consoleLog(t, id, -1)
		if got := s.consoleLog(t, id, 10); len(got) != 10 || !strings.HasSuffix(all, got) {
			return "the last 10 bytes are " + got
		}
		if got := s.consoleLog(t, id, int64(len(all))+1000); got != all {
			return "more bytes than there are give another log"
		}
		if got := s.consoleLog(t, id, 0); got != "" {
			return "no bytes before the end are " + got
		}
		return ""
	})
}

// testConsoleTyped types at a shell, which guests that have none on their console are
// given.
func (s *suite) testConsoleTyped(t *testing.T) {
	s.need(t, Console)
	id := s.guest(t)
	s.try(t, id, "test -c /dev/console && sh </dev/console >/dev/console 2>&1 &")
	ctx := within(t, 6*s.b.Limits.Boot)
	one, err := s.p.TypeAtConsole(ctx, id)
	must(t, "type", err)
	held, cancel := context.WithCancel(ctx)
	two, err := s.p.TypeAtConsole(held, id)
	must(t, "type, too", err)
	asks := func(keys io.Writer, word string) {
		t.Helper()
		// What is typed before the shell reads may be lost.
		eventually(t, s.b.Limits.Boot, func() string {
			_, err := io.WriteString(keys, "echo ty''ped "+word+"\n")
			must(t, "type "+word, err)
			if !strings.Contains(s.consoleLog(t, id, -1), "typed "+word) {
				return "what was typed has no answer in the log"
			}
			return ""
		})
	}
	asks(one, "alone")
	asks(two, "in company")
	cancel()
	_, err = io.WriteString(two, "x")
	want(t, "typing after the end of the context", err, context.Canceled)
	asks(one, "alone again")
	must(t, "close", one.Close())
	s.say(t, id, "nobody types any more")
	eventually(t, s.b.Limits.Call, func() string {
		if log := s.consoleLog(t, id, -1); !strings.Contains(log, "typed alone again") || !strings.Contains(log, "nobody types any more") {
			return "the log does not go on: " + log
		}
		return ""
	})
	again, err := s.p.TypeAtConsole(ctx, id)
	must(t, "type anew", err)
	asks(again, "anew")
	_, err = io.WriteString(again, "exit\n")
	must(t, "leave the shell", err)
	must(t, "close", again.Close())
}

// maxTypedAhead is the most that may be taken of what nobody reads, in bytes.
const maxTypedAhead = 4 << 20

// testDeaf types at a machine that stands still, and so reads nothing.
func (s *suite) testDeaf(t *testing.T) {
	s.need(t, Console, Outside)
	id := s.made(t, s.spec(t, "machine"))
	ctx := within(t, s.b.Limits.Boot)
	_, err := s.p.TypeAtConsole(ctx, id)
	want(t, "typing at a machine that is off", err, providers.ErrBusy)
	s.start(t, id)
	one, err := s.p.TypeAtConsole(ctx, id)
	must(t, "type", err)
	held, cancel := context.WithCancel(ctx)
	defer cancel()
	two, err := s.p.TypeAtConsole(held, id)
	must(t, "type, too", err)
	s.b.Pause(t, id)

	var taken atomic.Int64
	stays, leaves := typeOn(one, &taken), typeOn(two, &taken)
	before := int64(0)
	for deadline := time.Now().Add(s.b.Limits.Boot); before == 0 || taken.Load() != before; time.Sleep(time.Second) {
		if before = taken.Load(); before > maxTypedAhead || time.Now().After(deadline) {
			t.Fatalf("%d bytes were taken that nobody reads", before)
		}
	}
	for what, ended := range map[string]<-chan error{"who stays": stays, "who leaves": leaves} {
		select {
		case err := <-ended:
			t.Fatalf("typing where nobody reads ended with %v for one %s", err, what)
		default:
		}
	}
	s.wantPower(t, id, providers.PowerPaused)
	_ = s.consoleLog(t, id, -1)
	cancel()
	want(t, "typing after the end of the context", s.ends(t, leaves), context.Canceled)
	s.forceOff(t, id)
	want(t, "typing at a machine that went off", s.ends(t, stays), providers.ErrBusy)
	must(t, "close", one.Close())
	if s.b.Brief {
		return
	}
	s.start(t, id)
	again, err := s.p.TypeAtConsole(ctx, id)
	must(t, "type anew", err)
	_, err = io.WriteString(again, "x")
	must(t, "type anew", err)
	must(t, "close", again.Close())
}

// typeOn types until that ends.
func typeOn(keys io.Writer, taken *atomic.Int64) <-chan error {
	ended := make(chan error, 1)
	go func() {
		for {
			n, err := keys.Write(make([]byte, 1<<10))
			if taken.Add(int64(n)); err != nil {
				ended <- err
				return
			}
		}
	}()
	return ended
}

// ends waits for the end of what waits.
func (s *suite) ends(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-s.ctx(t).Done():
		t.Fatal("what waits for a machine does not end")
		return nil
	}
}
