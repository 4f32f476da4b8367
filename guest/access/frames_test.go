package access

import (
	"encoding/binary"
	"io"
	"slices"
	"testing"
	"time"
)

// frameOf is the header of a frame, and what follows it.
func frameOf(control bool, length int) []byte {
	b := make([]byte, frameHeader+length)
	b[3] = 1
	if control {
		b[0] = 0x80
	}
	binary.BigEndian.PutUint32(b[4:], uint32(length)|0x01<<24) // with a flag
	for i := range b[frameHeader:] {
		b[frameHeader+i] = 0xff // a length of 16 MiB, if it were taken for a header
	}
	return b
}

// TestFrames: frames are told apart however they are cut to pieces, and the first one
// that is too large is refused at its header.
func TestFrames(t *testing.T) {
	fine := slices.Concat(frameOf(true, 0), frameOf(false, 5), frameOf(true, 300), frameOf(false, maxFrame), frameOf(false, 0), frameOf(true, maxFrame))
	for _, piece := range []int{1, 3, 7, 8, 9, 4096, len(fine)} {
		for _, control := range []bool{true, false} {
			var f frames
			for part := range slices.Chunk(fine, piece) {
				if err := f.pass(part); err != nil {
					t.Fatalf("in pieces of %d: %v", piece, err)
				}
			}
			large := frameOf(control, maxFrame+1)[:frameHeader]
			for i := range large {
				if err := f.pass(large[i : i+1]); (err != nil) != (i == frameHeader-1) {
					t.Errorf("in pieces of %d, control %v: byte %d of a large one: %v", piece, control, i, err)
				}
			}
		}
	}
}

// TestLargeFrame: a client that sends as much as there may be in a frame is served, and
// one that sends more loses its connection.
func TestLargeFrame(t *testing.T) {
	conn, open := forwarding(t)
	data, _ := open("7", "1")
	back := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(data, make([]byte, maxFrame))
		back <- err
	}()
	if _, err := data.Write(make([]byte, maxFrame)); err != nil {
		t.Fatal(err)
	}
	if err := <-back; err != nil {
		t.Fatalf("the echo of a frame as large as may be: %v", err)
	}
	_, _ = data.Write(make([]byte, maxFrame+1))
	select {
	case <-conn.CloseChan():
	case <-time.After(time.Minute):
		t.Error("the connection goes on after a frame that is too large")
	}
}
