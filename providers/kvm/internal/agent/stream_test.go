package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/test/capture"
)

func TestStreamsBothWays(t *testing.T) {
	const size = 9 << 20 // more than the guest keeps
	source := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(source.Uint32())
	}
	var out bytes.Buffer
	result, err := New(newLocalGuest(t).send).Exec(context.Background(), providers.ExecRequest{
		Command: []string{"cat"}, Stdin: bytes.NewReader(data), Stdout: &out, MaxOutput: providers.NoMaxOutput,
	})
	if err != nil || result.ExitCode != 0 || result.Truncated {
		t.Fatal(result, err)
	}
	if got, want := sha256.Sum256(out.Bytes()), sha256.Sum256(data); got != want {
		t.Errorf("%d bytes came back as %d others (%s)", size, out.Len(), hex.EncodeToString(got[:4]))
	}
}

// TestAnswersWhileItReads holds a conversation, which needs each line to arrive
// before the next is sent.
func TestAnswersWhileItReads(t *testing.T) {
	in, w := io.Pipe()
	var out capture.Buffer
	ended := make(chan error, 1)
	var result providers.ExecResult
	go func() {
		var err error
		result, err = New(newLocalGuest(t).send).Exec(context.Background(), providers.ExecRequest{
			Command: []string{"sh", "-c", `while read -r l; do echo "got $l"; done; echo end; exit 3`}, Stdin: in, Stdout: &out, MaxOutput: providers.NoMaxOutput,
		})
		ended <- err
	}()
	for i := range 5 {
		fmt.Fprintf(w, "line%d\n", i)
		out.Shows(t, time.Minute, fmt.Sprintf("got line%d\n", i))
	}
	_ = w.Close()
	if err := <-ended; err != nil || result.ExitCode != 3 || !strings.HasSuffix(out.String(), "end\n") {
		t.Error(result, err, out.String())
	}
}

func TestEndsBeforeItsInput(t *testing.T) {
	in, w := io.Pipe()
	defer func() { _ = w.Close() }()
	go func() { _, _ = io.Copy(w, zeros{}) }()
	result, err := New(newLocalGuest(t).send).Exec(context.Background(), providers.ExecRequest{
		Command: []string{"sh", "-c", "head -c 10 >/dev/null; exit 4"}, Stdin: in, MaxOutput: providers.NoMaxOutput,
	})
	if err != nil || result.ExitCode != 4 {
		t.Error(result, err)
	}
	_ = in.Close()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestSlowReaderBoundsTheGuest looks at what the guest keeps of a command that
// prints without end for somebody who takes nothing.
func TestSlowReaderBoundsTheGuest(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	stuck := make(chan struct{})
	ended := make(chan error, 1)
	g := newLocalGuest(t)
	go func() {
		_, err := New(g.send).Exec(ctx, providers.ExecRequest{
			Command: []string{"sh", "-c", "while :; do echo 0123456789abcdef0123456789abcdef0123456789abcdef; done"}, MaxOutput: providers.NoMaxOutput,
			Stdout: writer(func(p []byte) (int, error) { <-stuck; return len(p), nil }),
		})
		ended <- err
	}()
	var most, last int64
	for stable := 0; stable < 10; time.Sleep(100 * time.Millisecond) {
		var size int64
		for _, d := range g.left() {
			_ = filepath.Walk(d, func(_ string, i os.FileInfo, err error) error {
				if err == nil && i.Mode().IsRegular() {
					size += i.Size()
				}
				return nil
			})
		}
		most = max(most, size)
		if size == last && size > 0 {
			stable++
		} else {
			stable = 0
		}
		last = size
	}
	cancel()
	close(stuck)
	if err := <-ended; err == nil {
		t.Error("it was not ended")
	}
	if most > 3*64*65536 {
		t.Errorf("the guest keeps %d bytes", most)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func TestTerminal(t *testing.T) {
	in, w := io.Pipe()
	var out capture.Buffer
	sizes := make(chan providers.TerminalSize, 1)
	sizes <- providers.TerminalSize{Width: 101, Height: 33}
	ended := make(chan error, 1)
	var result providers.ExecResult
	go func() {
		var err error
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		result, err = New(newLocalGuest(t).send).Exec(ctx, providers.ExecRequest{
			Command: []string{"sh"}, Stdin: in, Stdout: &out, TTY: true, Resize: sizes, Env: []string{"PS1=>"},
		})
		ended <- err
	}()
	out.Shows(t, time.Minute, ">")
	fmt.Fprint(w, "stty size\r")
	out.Shows(t, time.Minute, "33 101\r\n")
	sizes <- providers.TerminalSize{Width: 132, Height: 50}
	for deadline := time.Now().Add(time.Minute); !strings.Contains(out.String(), "50 132\r\n"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the size does not change: %q", out.String())
		}
		fmt.Fprint(w, "stty size\r")
	}
	fmt.Fprint(w, "sh -c 'echo be''gun; exec sleep 1000'\r") // which Ctrl-C ends from its first word on
	out.Shows(t, time.Minute, "begun\r\n")
	fmt.Fprint(w, "\x03")
	for deadline := time.Now().Add(time.Minute); strings.HasSuffix(out.String(), "begun\r\n"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) { // a shell that is quick shows nothing of it but its prompt
			t.Fatalf("Ctrl-C does nothing after %q", out.String())
		}
	}
	fmt.Fprint(w, "echo 'it is '\"back\"; exit 5\r")
	if err := <-ended; err != nil || result.ExitCode != 5 || !strings.Contains(out.String(), "it is back\r\n") {
		t.Errorf("%+v %v %q", result, err, out.String())
	}
}

// TestTerminalEnds: the end of the input is typed.
func TestTerminalEnds(t *testing.T) {
	var out capture.Buffer
	result, err := New(newLocalGuest(t).send).Exec(context.Background(), providers.ExecRequest{
		Command: []string{"cat"}, Stdin: strings.NewReader("a line\n"), Stdout: &out, TTY: true,
	})
	if err != nil || result.ExitCode != 0 || strings.Count(out.String(), "a line\r\n") != 2 {
		t.Errorf("%+v %v %q", result, err, out.String())
	}
}

// TestInterrupted: a command that is interrupted at its terminal, whoever runs it,
// ends as by any other signal.
func TestInterrupted(t *testing.T) {
	users := []string{""}
	if os.Getuid() == 0 {
		users = append(users, "nobody")
	}
	for _, user := range users {
		in, w := io.Pipe()
		var out capture.Buffer
		ended := make(chan error, 1)
		var result providers.ExecResult
		go func() {
			var err error
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			result, err = New(newLocalGuest(t).send).Exec(ctx, providers.ExecRequest{
				Command: []string{"sh", "-c", "echo here >/dev/tty; exec sleep 1000"}, User: user, Dir: "/", Stdin: in, Stdout: &out, TTY: true,
			})
			ended <- err
		}()
		out.Shows(t, time.Minute, "here\r\n")
		fmt.Fprint(w, "\x03")
		if err := <-ended; err != nil || result.ExitCode != 130 {
			t.Errorf("as %q: %+v %v %q", user, result, err, out.String())
		}
		_ = w.Close()
	}
}
