package ssh

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestscript"
)

func checkPath(p string) error {
	if !path.IsAbs(p) || strings.ContainsRune(p, 0) || len(p) > 4096 {
		return fmt.Errorf("%w: %.100q is not an absolute path", errBadRequest, p)
	}
	return nil
}

// WriteFile replaces a file of the guest.
func (c *Client) WriteFile(ctx context.Context, p string, mode uint32, from io.Reader) error {
	err := checkPath(p)
	if err == nil && mode > 0o777 {
		err = fmt.Errorf("%w: mode %#o has more than the permission bits", errBadRequest, mode)
	}
	if err != nil {
		return c.kind(ctx, err)
	}
	return c.inGuest(ctx, func(conn *connection) error {
		release, err := conn.reserve(ctx)
		if err != nil {
			return err
		}
		defer release()
		return conn.writeFile(ctx, p, mode, from)
	})
}

// writeFile fills a new file, which cannot be told from one whose writer was cut
// off; only then, and apart from it, it is put in its place.
func (c *connection) writeFile(ctx context.Context, p string, mode uint32, from io.Reader) error {
	temp := strings.TrimSuffix(path.Dir(p), "/") + "/.sandboxd-" + token()
	var said bytes.Buffer
	err := c.stream(ctx, fillScript, from, nil, func(b []byte) error {
		said.Write(b[:min(len(b), maxReply-said.Len())])
		return nil
	}, p, temp, guestscript.Put)
	if err == nil {
		err = putOutcome(said.String(), p)
		if err != nil {
			return err
		}
		var out string
		if out, err = c.shell(ctx, guestscript.Put, "", "end", p, temp, fmt.Sprintf("%04o", mode)); err == nil {
			return putOutcome(out, p)
		}
	}
	_, _ = c.late(ctx, guestscript.Put, "abort", p, temp)
	return err
}

func putOutcome(out, p string) error {
	switch word := strings.TrimSpace(out); word {
	case "ok":
		return nil
	case "missing":
		return fmt.Errorf("%w: the directory of %q does not exist in the guest", errNoFile, p)
	case "directory":
		return fmt.Errorf("%w: %q is a directory", errBadRequest, p)
	case "denied":
		return fmt.Errorf("%w: %q cannot be written in the guest", errBadRequest, p)
	case "full":
		return fmt.Errorf("%w: %q cannot be written to its end; is the guest's disk full?", errRefused, p)
	default:
		return fmt.Errorf("%w: its report on %q is not understood: %q", errRefused, p, printable(word))
	}
}

// ReadFile copies a file of the guest. It copies as many bytes as the file had
// when it was looked at.
func (c *Client) ReadFile(ctx context.Context, p string, to io.Writer) (providers.FileInfo, error) {
	var info providers.FileInfo
	if err := checkPath(p); err != nil {
		return info, c.kind(ctx, err)
	}
	err := c.inGuest(ctx, func(conn *connection) error {
		release, err := conn.reserve(ctx)
		if err != nil {
			return err
		}
		defer release()
		f := &file{path: p, to: to}
		// All of it comes with the answer, however long it is.
		if err := conn.stream(ctx, guestscript.Get, nil, new(string), f.deliver, p, strconv.Itoa(1<<62)); err != nil {
			return err
		}
		info = f.info
		return f.end()
	})
	return info, err
}

// file is what get.sh prints: a line that describes a file, and its content.
type file struct {
	path string
	to   io.Writer

	line []byte
	read bool // the line
	info providers.FileInfo
	left int64
}

// deliver takes the next piece. Its errors end the transfer.
func (f *file) deliver(p []byte) (err error) {
	if !f.read {
		i := bytes.IndexByte(p, '\n')
		if i < 0 || len(f.line)+i > maxReport {
			if f.line = append(f.line, p...); len(f.line) > maxReport {
				return fmt.Errorf("%w: its report on %q is not understood: %q", errRefused, f.path, printable(string(f.line[:maxReport])))
			}
			return nil
		}
		f.line, p, f.read = append(f.line, p[:i]...), p[i+1:], true
		if f.info, err = parseFileInfo(string(f.line), f.path); err != nil {
			return err
		}
		f.left = f.info.Size
	}
	if int64(len(p)) > f.left {
		return fmt.Errorf("%w: it sends more of %q than it has", errRefused, f.path)
	}
	if f.left -= int64(len(p)); len(p) == 0 {
		return nil
	}
	if _, err := f.to.Write(p); err != nil {
		return fmt.Errorf("%w: output: %w", errCaller, err)
	}
	return nil
}

func (f *file) end() error {
	switch {
	case !f.read:
		return fmt.Errorf("%w: its report on %q is not understood: %q", errRefused, f.path, printable(string(f.line)))
	case f.left > 0:
		return fmt.Errorf("%w: the file became shorter while it was read", errRefused)
	}
	return nil
}

func parseFileInfo(line, p string) (providers.FileInfo, error) {
	switch line {
	case "missing":
		return providers.FileInfo{}, fmt.Errorf("%w: %q does not exist in the guest", errNoFile, p)
	case "irregular":
		return providers.FileInfo{}, fmt.Errorf("%w: %q is not a regular file", errBadRequest, p)
	case "denied":
		return providers.FileInfo{}, fmt.Errorf("%w: %q cannot be read in the guest", errBadRequest, p)
	}
	if f := strings.Fields(line); len(f) == 3 && f[0] == "ok" {
		size, err := strconv.ParseUint(f[1], 10, 62)
		mode, err2 := strconv.ParseUint(f[2], 8, 16)
		if err == nil && err2 == nil {
			return providers.FileInfo{Size: int64(size), Mode: uint32(mode) & 0o777}, nil
		}
	}
	return providers.FileInfo{}, fmt.Errorf("%w: its report on %q is not understood: %q", errRefused, p, printable(line))
}
