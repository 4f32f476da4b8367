package guestio

import (
	"errors"
	"io"
)

// endOfTyping is the character that ends what is typed at a terminal, if it is at
// the beginning of a line, and else that line's beginning, which is passed on.
const endOfTyping = 4

// EndOfTyping is what has to be typed for the end of input, after what was typed
// last; 0 for nothing.
func EndOfTyping(last byte) []byte {
	switch last {
	case 0, '\r', '\n', endOfTyping:
		return []byte{endOfTyping}
	default:
		return []byte{endOfTyping, endOfTyping}
	}
}

// Typed reads an input as it is typed at a terminal: its end is typed as
// well.
func Typed(in io.Reader) io.Reader { return &typed{in: in} }

type typed struct {
	in   io.Reader
	last byte
	end  []byte // what is still to be typed of the end
	over bool
}

// Read implements io.Reader.
func (t *typed) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if t.over {
		n := copy(p, t.end)
		if t.end = t.end[n:]; n == 0 {
			return 0, io.EOF
		}
		return n, nil
	}
	n, err := t.in.Read(p)
	if n > 0 {
		t.last = p[n-1]
	}
	if errors.Is(err, io.EOF) {
		t.over, t.end, err = true, EndOfTyping(t.last), nil
	}
	return n, err
}
