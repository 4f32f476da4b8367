package access

import (
	"encoding/binary"
	"fmt"
	"net"
)

// maxFrame is the greatest SPDY frame that is read, in bytes. Clients send 32 KiB at a
// time. The protocol allows for 16 MiB, of which the library makes queues that nobody
// waits for, and that would be hundreds of megabytes for one client.
const maxFrame = 256 << 10

// frameHeader is the length of a frame's header, whose last three bytes are the length
// of what follows.
const frameHeader = 8

// frames follows a stream of SPDY frames by their headers, which may come in pieces.
//
//	┌ C │ stream, or version and type ┐┌ flags │ length ┐┌ length bytes ┐
//	└──────────── 4 bytes ────────────┘└──── 4 bytes ───┘└──────────────┘ …
type frames struct {
	header [frameHeader]byte
	have   int    // bytes of header
	rest   uint32 // bytes of the frame that are still to come
}

// pass takes what was read. It fails at the header of a frame that is too large.
func (f *frames) pass(p []byte) error {
	for len(p) > 0 {
		if f.rest > 0 {
			n := min(f.rest, uint32(min(len(p), maxFrame))) //nolint:gosec // below maxFrame
			f.rest -= n
			p = p[n:]
			continue
		}
		n := copy(f.header[f.have:], p)
		f.have += n
		p = p[n:]
		if f.have < frameHeader {
			return nil
		}
		f.have = 0
		f.rest = binary.BigEndian.Uint32(f.header[4:]) & 0xffffff
		if f.rest > maxFrame {
			return fmt.Errorf("the client sends a frame of %d bytes: %d is the most", f.rest, maxFrame)
		}
	}
	return nil
}

// framedConn ends with the first frame that is too large. It is for one reader.
type framedConn struct {
	net.Conn
	seen frames
}

// Read implements net.Conn.
func (c *framedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if large := c.seen.pass(p[:n]); large != nil {
		_ = c.Close()
		return 0, large
	}
	return n, err
}
