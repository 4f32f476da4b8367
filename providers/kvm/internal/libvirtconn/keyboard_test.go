package libvirtconn

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"

	"sandboxd.dev/sandboxd/providers"
)

// packet is one of libvirt's.
func packet(procedure, kind, serial, status uint32, body []byte) []byte {
	var b []byte
	for _, n := range []uint32{uint32(headerSize + len(body)), remoteProgram, protocolVersion, procedure, kind, serial, status} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return append(b, body...)
}

// TestTapSeesTheReply wherever what is read is cut, and nothing else for it.
func TestTapSeesTheReply(t *testing.T) {
	const statusError = 1
	body := bytes.Repeat([]byte{0, 0, 0, openConsole}, 20)
	before := append(packet(openConsole, typeReply, 7, statusError, body), packet(openConsole, typeStream, 7, statusContinue, body)...)
	before = append(before, packet(1, typeReply, 7, statusOK, nil)...)
	before = append(before, packet(openConsole, typeReply, 7, statusOK, nil)[:headerSize-1]...)
	for size := 1; size <= len(before); size++ {
		s := &tap{opened: make(chan struct{})}
		for at := 0; at < len(before); at += size {
			s.see(before[at:min(len(before), at+size)])
		}
		if s.isOpened() {
			t.Fatalf("in pieces of %d bytes: opened before the reply", size)
		}
		s.see([]byte{0})
		s.see(before) // once is enough
		if !s.isOpened() {
			t.Fatalf("in pieces of %d bytes: the reply is not seen", size)
		}
	}
}

// consoleDaemon is a libvirtd that answers each call, and to the opening of a console
// by what it is told to.
func consoleDaemon(t *testing.T, answer func(serial uint32) []byte) (socket string, typed <-chan []byte) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	keys := make(chan []byte, 100)
	serve := func(c net.Conn) {
		defer func() { _ = c.Close() }()
		for {
			head := make([]byte, headerSize)
			if _, err := io.ReadFull(c, head); err != nil {
				return
			}
			body := make([]byte, number(head, 0)-headerSize)
			if _, err := io.ReadFull(c, body); err != nil {
				return
			}
			serial := number(head, 5)
			reply := packet(number(head, 3), typeReply, serial, statusOK, make([]byte, 8))
			switch {
			case number(head, 4) == typeStream && number(head, 6) == statusOK:
				reply = packet(openConsole, typeStream, serial, statusOK, nil)
			case number(head, 4) == typeStream:
				keys <- body
				continue
			case number(head, 3) == openConsole:
				reply = answer(serial)
			}
			if _, err := c.Write(reply); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return socket, keys
}

func TestKeyboard(t *testing.T) {
	shows := packet(openConsole, typeStream, 0, statusContinue, []byte("shown"))
	socket, typed := consoleDaemon(t, func(serial uint32) []byte {
		binary.BigEndian.PutUint32(shows[20:], serial)
		return append(packet(openConsole, typeReply, serial, statusOK, nil), shows...)
	})
	c := newClient(t, socket)
	k, err := c.OpenKeyboard(t.Context(), "machine x", libvirt.Domain{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"a", "bc"} {
		if n, err := k.Write([]byte(text)); n != len(text) || err != nil {
			t.Errorf("%d bytes were written, %v", n, err)
		}
		if got := string(<-typed); got != text {
			t.Errorf("%q came as %q", text, got)
		}
	}
	_, _ = k.Close(), k.Close()
	<-k.Ended()
	if _, err := k.Write([]byte("late")); err == nil {
		t.Error("what was closed can be written to")
	}

	k, err = c.OpenKeyboard(t.Context(), "machine x", libvirt.Domain{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	<-k.Ended()
	_ = k.Close()
	if _, err := c.OpenKeyboard(t.Context(), "machine x", libvirt.Domain{Name: "x"}); !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("closed: %v", err)
	}
}

// TestNoKeyboard: whoever cannot have a console is told why, and nothing is left.
func TestNoKeyboard(t *testing.T) {
	refusal := func(code uint32) func(uint32) []byte {
		return func(serial uint32) []byte {
			// A remote_error: code, domain, an optional message, level.
			body := binary.BigEndian.AppendUint32(nil, code)
			body = append(body, 0, 0, 0, 10, 0, 0, 0, 1, 0, 0, 0, 4, 'n', 'o', '!', '!', 0, 0, 0, 2)
			return packet(openConsole, typeReply, serial, 1, body)
		}
	}
	for name, tc := range map[string]struct {
		answer func(uint32) []byte
		kind   error
	}{
		"in use":     {refusal(uint32(libvirt.ErrOperationFailed)), providers.ErrBusy},
		"off":        {refusal(uint32(libvirt.ErrOperationInvalid)), providers.ErrBusy},
		"no machine": {refusal(uint32(libvirt.ErrNoDomain)), providers.ErrNotFound},
	} {
		socket, _ := consoleDaemon(t, tc.answer)
		c := newClient(t, socket)
		if _, err := c.OpenKeyboard(t.Context(), "machine x", libvirt.Domain{Name: "x"}); !errors.Is(err, tc.kind) {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
	socket, _ := consoleDaemon(t, func(uint32) []byte { return nil })
	c := newClient(t, socket)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.OpenKeyboard(ctx, "machine x", libvirt.Domain{Name: "x"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no answer: %v", err)
	}
	if _, err := newClient(t, filepath.Join(t.TempDir(), "none")).OpenKeyboard(t.Context(), "machine x", libvirt.Domain{}); !errors.Is(err, providers.ErrDown) {
		t.Errorf("no daemon: %v", err)
	}
}

// FuzzTap: wherever what comes is cut, it means the same, and no more than a header of it
// is kept.
func FuzzTap(f *testing.F) {
	f.Add(packet(openConsole, typeReply, 7, statusOK, []byte("body")), uint8(5))
	f.Add(packet(openConsole, typeStream, 7, statusContinue, packet(openConsole, typeReply, 7, statusOK, nil)), uint8(30))
	f.Add(bytes.Repeat([]byte{0xff}, 100), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		whole, cut := &tap{opened: make(chan struct{})}, &tap{opened: make(chan struct{})}
		whole.see(b)
		step := max(1, int(size))
		for at := 0; at < len(b); at += step {
			cut.see(b[at:min(len(b), at+step)])
		}
		if whole.isOpened() != cut.isOpened() || whole.left != cut.left || !bytes.Equal(whole.head, cut.head) || len(cut.head) >= headerSize {
			t.Errorf("%x in pieces of %d: %+v and %+v", b, step, whole, cut)
		}
	})
}
