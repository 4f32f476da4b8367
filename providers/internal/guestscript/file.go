package guestscript

import (
	"bytes"
	"fmt"
	"io"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
)

// MaxLine bounds the line that a script prints for us, in bytes.
const MaxLine = 200

// File takes what Get prints, as it comes: a line that describes a file, and the
// file's content.
type File struct {
	path string
	to   io.Writer

	line []byte
	read bool // the line
	info providers.FileInfo
	left int64
}

// NewFile makes a File for a path, whose content goes to a writer.
func NewFile(path string, to io.Writer) *File { return &File{path: path, to: to} }

// Deliver takes the next piece. After an error there is nothing more to take.
func (f *File) Deliver(p []byte) (err error) {
	if !f.read {
		i := bytes.IndexByte(p, '\n')
		if i < 0 || len(f.line)+i > MaxLine {
			if f.line = append(f.line, p...); len(f.line) > MaxLine {
				return notUnderstood(fmt.Sprintf("%q", f.path), string(f.line[:MaxLine]))
			}
			return nil
		}
		f.line, p, f.read = append(f.line, p[:i]...), p[i+1:], true
		if f.info, err = GetOutcome(string(f.line), f.path); err != nil {
			return err
		}
		f.left = f.info.Size
	}
	if int64(len(p)) > f.left {
		return fmt.Errorf("%w: it sends more of %q than it has", guestcall.ErrRefused, f.path)
	}
	if f.left -= int64(len(p)); len(p) == 0 {
		return nil
	}
	if _, err := f.to.Write(p); err != nil {
		return guestcall.OutputError(err)
	}
	return nil
}

// End is called when Get has ended. It returns what the line said.
func (f *File) End() (providers.FileInfo, error) {
	switch {
	case !f.read:
		return f.info, notUnderstood(fmt.Sprintf("%q", f.path), string(f.line))
	case f.left > 0:
		return f.info, fmt.Errorf("%w: %q became shorter while it was read", guestcall.ErrRefused, f.path)
	}
	return f.info, nil
}
