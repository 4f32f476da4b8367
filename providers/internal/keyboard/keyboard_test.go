package keyboard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers/internal/keyboard"
	"sandboxd.dev/sandboxd/providers/internal/lifetime"
)

// guest is a console: what was typed, in lines that are opened one after the other.
type guest struct {
	mu     sync.Mutex
	typed  strings.Builder
	opened int
	open   int // at most one
	most   int
	fails  error
	deaf   bool
	last   *line
}

// line is one to a guest.
type line struct {
	g     *guest
	ended chan struct{}
	once  sync.Once
}

func (g *guest) dial(ctx context.Context) (keyboard.Line, error) {
	select {
	case <-time.After(100 * time.Millisecond):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fails != nil {
		return nil, g.fails
	}
	g.opened++
	g.open++
	g.most = max(g.most, g.open)
	g.last = &line{g: g, ended: make(chan struct{})}
	return g.last, nil
}

func (l *line) Write(b []byte) (int, error) {
	l.g.mu.Lock()
	deaf := l.g.deaf
	l.g.mu.Unlock()
	if deaf {
		<-l.ended
	}
	select {
	case <-l.ended:
		return 0, io.ErrClosedPipe
	default:
	}
	l.g.mu.Lock()
	defer l.g.mu.Unlock()
	return l.g.typed.Write(b)
}

func (l *line) Ended() <-chan struct{} { return l.ended }

func (l *line) Close() error {
	l.once.Do(func() {
		close(l.ended)
		l.g.mu.Lock()
		defer l.g.mu.Unlock()
		l.g.open--
	})
	return nil
}

func (g *guest) state() (typed string, opened, open, most int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.typed.String(), g.opened, g.open, g.most
}

const id = types.UID("a")

// play runs something in time that passes at once, and sees that nothing is left.
func play(t *testing.T, do func(t *testing.T, set *keyboard.Set, g *guest)) {
	synctest.Test(t, func(t *testing.T) {
		life, g := lifetime.New(), &guest{}
		set := keyboard.New(life.Go)
		do(t, set, g)
		life.End()
		set.Close()
		life.Wait()
		synctest.Wait()
		if _, _, open, most := g.state(); open != 0 || most > 1 {
			t.Errorf("%d lines are left, and %d were open at a time", open, most)
		}
	})
}

func join(t *testing.T, ctx context.Context, set *keyboard.Set, g *guest) io.WriteCloser { //nolint:revive // as in the calls
	t.Helper()
	w, err := set.Join(ctx, id, g.dial)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestShared: all who type share one line, which goes with the last of them.
func TestShared(t *testing.T) {
	play(t, func(t *testing.T, set *keyboard.Set, g *guest) {
		var typists []io.WriteCloser
		var mu sync.Mutex
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				w := join(t, t.Context(), set, g)
				mu.Lock()
				defer mu.Unlock()
				typists = append(typists, w)
			})
		}
		all.Wait()
		for _, w := range typists {
			all.Go(func() { fmt.Fprint(w, "abc") })
		}
		all.Wait()
		long := strings.Repeat("x", 100_000)
		if n, err := io.WriteString(typists[0], long); n != len(long) || err != nil {
			t.Errorf("%d bytes were typed, %v", n, err)
		}
		for _, w := range typists {
			if !set.Typed(id) {
				t.Error("nobody types any more")
			}
			_, _, _ = w.Close(), w.Close(), set.Typed("another")
		}
		if _, err := typists[0].Write([]byte("late")); err == nil {
			t.Error("who has gone can type")
		}
		synctest.Wait()
		typed, opened, open, _ := g.state()
		if strings.Count(typed, "abc") != 8 || !strings.HasSuffix(typed, long) || opened != 1 || open != 0 || set.Typed(id) {
			t.Errorf("%d bytes came by %d lines, %d are open", len(typed), opened, open)
		}
	})
}

// TestReopened: who types goes on when the line has ended by itself, or was ended, and
// is told when there is none any more.
func TestReopened(t *testing.T) {
	play(t, func(t *testing.T, set *keyboard.Set, g *guest) {
		w := join(t, t.Context(), set, g)
		fmt.Fprint(w, "one ")
		_ = g.last.Close() // the machine was started anew
		synctest.Wait()
		fmt.Fprint(w, "two ")
		if err := set.End(t.Context(), id); err != nil {
			t.Error(err)
		}
		fmt.Fprint(w, "three")
		synctest.Wait()
		if typed, opened, _, _ := g.state(); typed != "one two three" || opened != 3 {
			t.Errorf("%q by %d lines", typed, opened)
		}
		_ = g.last.Close()
		synctest.Wait()
		g.fails = errors.New("it is off")
		if _, err := fmt.Fprint(w, "four"); !errors.Is(err, g.fails) {
			t.Errorf("typing at a machine that is off: %v", err)
		}
		if _, err := set.Join(t.Context(), id, g.dial); !errors.Is(err, g.fails) || set.Typed(id) {
			t.Errorf("joining at a machine that is off: %v", err)
		}
		g.fails = nil
		fmt.Fprint(w, "!")
		_ = w.Close()
		synctest.Wait()
		if typed, _, _, _ := g.state(); typed != "one two three!" {
			t.Errorf("%q", typed)
		}
	})
}

// TestDeafGuest: a guest that does not read makes those wait who type at it, until they
// go, and does not keep its line.
func TestDeafGuest(t *testing.T) {
	play(t, func(t *testing.T, set *keyboard.Set, g *guest) {
		g.deaf = true
		ctx, cancel := context.WithCancel(t.Context())
		one, two := join(t, ctx, set, g), join(t, t.Context(), set, g)
		ended := make(chan error, 2)
		go func() {
			_, err := one.Write(make([]byte, 1<<20))
			ended <- err
		}()
		go func() {
			time.Sleep(time.Second)
			_, err := two.Write(make([]byte, 1<<20))
			ended <- err
		}()
		time.Sleep(time.Hour)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("typing ends with its context by %v", err)
		}
		_ = two.Close()
		if err := <-ended; err == nil {
			t.Error("who has gone has typed it all")
		}
		begun := time.Now()
		again := join(t, t.Context(), set, g) // waits for the end of the line before
		if waited := time.Since(begun); waited > 5*time.Second {
			t.Errorf("the next one waited for %v", waited)
		}
		_ = again.Close()
	})
}

// TestWhoOpensGoes: those who wait for a line that another opens open it themselves when
// that one goes away.
func TestWhoOpensGoes(t *testing.T) {
	play(t, func(t *testing.T, set *keyboard.Set, g *guest) {
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := set.Join(ctx, id, g.dial)
			failed <- err
		}()
		synctest.Wait()
		go func() {
			time.Sleep(50 * time.Millisecond)
			cancel()
		}()
		w := join(t, t.Context(), set, g)
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("who has gone: %v", err)
		}
		fmt.Fprint(w, "hello")
		_ = w.Close()
		synctest.Wait()
		if typed, opened, _, _ := g.state(); typed != "hello" || opened != 1 {
			t.Errorf("%q by %d lines", typed, opened)
		}
	})
}
