package guestio

import (
	"bytes"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSplitter: reports are found and output is passed on, however it arrives.
func TestSplitter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.StringOfN(rapid.RuneFrom([]rune("\x01T d\n")), 0, 20, -1)
		before, output, after := part.Draw(t, "before"), part.Draw(t, "output"), part.Draw(t, "after")
		var got bytes.Buffer
		var said []string
		s := NewSplitter("TOKEN", func(p []byte) { got.Write(p) }, func(word string) { said = append(said, word) })
		for rest := before + "\x01TOKEN start\n" + output + "\x01TOKEN done 7\n" + after; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "n")
			s.Take([]byte(rest[:n]))
			rest = rest[n:]
		}
		if got.String() != output || !slices.Equal(said, []string{"start", "done 7"}) || !s.Ended() {
			t.Fatalf("got %q and %q, want %q", got.String(), said, output)
		}
	})
}

// FuzzSplitter: what is passed on stands in the stream, and what is held back has
// a bound, whatever arrives.
func FuzzSplitter(f *testing.F) {
	f.Add("\x01TOKEN start\nout\x01TOKEN done 1\n", 3)
	f.Add("\x01TOKEN "+strings.Repeat("x", 200), 1)
	f.Add("\x01TOKEN start\nout\x01put", 7)
	f.Fuzz(func(t *testing.T, text string, n int) {
		var got bytes.Buffer
		s := NewSplitter("TOKEN", func(p []byte) { got.Write(p) }, func(word string) {
			if len(word) > len(text) || strings.Contains(word, "\n") {
				t.Fatalf("the report %q", word)
			}
		})
		for rest := []byte(text); len(rest) > 0; {
			k := min(max(1, n), len(rest))
			s.Take(rest[:k])
			rest = rest[k:]
			if len(s.held) > maxReport+len("\x01TOKEN ")+k {
				t.Fatalf("%d bytes are held back", len(s.held))
			}
		}
		if _, behind, begun := strings.Cut(text, "\x01TOKEN "); got.Len() > 0 && (!begun || !strings.Contains(behind, got.String())) {
			t.Fatalf("%q came out of %q", got.String(), text)
		}
	})
}

type badWriter struct{ err error }

func (w badWriter) Write([]byte) (int, error) { return 0, w.err }

func TestOutputs(t *testing.T) {
	var both bytes.Buffer
	stdout, stderr := Outputs(providers.ExecRequest{Stdout: &both, Stderr: &both, MaxOutput: 3})
	for _, o := range []*Output{stdout, stderr, stdout} {
		if err := o.Deliver([]byte("ab")); err != nil {
			t.Error(err)
		}
	}
	if both.String() != "ababa" || !stdout.Dropped() || stderr.Dropped() {
		t.Errorf("%q, dropped: %t and %t", both.String(), stdout.Dropped(), stderr.Dropped())
	}
	own := errors.New("own")
	stdout, stderr = Outputs(providers.ExecRequest{Stdout: badWriter{own}})
	if err := stdout.Deliver([]byte("x")); !errors.Is(err, own) || !errors.Is(err, guestcall.ErrCaller) {
		t.Errorf("the writer's error came out as %v", err)
	}
	if err := stderr.Deliver(make([]byte, 1<<20)); err != nil || stderr.Dropped() {
		t.Errorf("discarded with %v, dropped: %t", err, stderr.Dropped())
	}
	if stdout.left != providers.DefaultMaxOutput-1 {
		t.Errorf("%d bytes are left of the default", stdout.left)
	}
}

func TestAfter(t *testing.T) {
	never := func() { t.Error("it was called") }
	After(nil, 0, never)()
	After(nil, 1, never)() // it never starts
	started := make(chan struct{})
	close(started)
	After(started, math.MaxInt64, never)()
	called := make(chan struct{})
	stop := After(started, time.Millisecond, func() { close(called) })
	<-called
	stop()
}

func TestAwaited(t *testing.T) {
	started := make(chan struct{})
	Awaited(started, math.MaxInt64, func(error) { t.Error("it was called at once") })()
	called := make(chan error, 1)
	Awaited(started, time.Millisecond, func(err error) { called <- err })
	if err := <-called; !errors.Is(err, ErrNotStarted) || !strings.Contains(err.Error(), "1ms") {
		t.Errorf("got %v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		started := make(chan struct{})
		Awaited(started, time.Minute, func(error) { t.Error("it was called although it was started") })
		close(started)
		time.Sleep(2 * time.Minute)
	})
}

// TestTyped: an input ends in what ends it at a terminal, wherever it is cut.
func TestTyped(t *testing.T) {
	for in, want := range map[string]string{
		"": "\x04", "line\n": "line\n\x04", "line\r": "line\r\x04", "part": "part\x04\x04", "over\x04": "over\x04\x04",
	} {
		for name, r := range map[string]io.Reader{
			"as a whole": strings.NewReader(in), "in bytes": iotest.OneByteReader(strings.NewReader(in)), "with its end": iotest.DataErrReader(strings.NewReader(in)),
		} {
			if got, err := io.ReadAll(iotest.OneByteReader(Typed(r))); err != nil || string(got) != want {
				t.Errorf("%q %s is typed as %q, %v", in, name, got, err)
			}
		}
	}
	if _, err := io.ReadAll(Typed(iotest.ErrReader(io.ErrClosedPipe))); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a reader's error came out as %v", err)
	}
}
