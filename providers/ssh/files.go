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
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/guestscript"
)

// WriteFile replaces a file of the guest.
func (c *Client) WriteFile(ctx context.Context, p string, mode uint32, from io.Reader) error {
	if err := guestcall.CheckWrite(p, mode); err != nil {
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
	temp := strings.TrimSuffix(path.Dir(p), "/") + "/.sandboxd-" + guestscript.Token()
	var said bytes.Buffer
	err := c.stream(ctx, fillScript, from, nil, func(b []byte) error {
		said.Write(b[:min(len(b), maxReply-said.Len())])
		return nil
	}, p, temp, guestscript.Put)
	if err == nil {
		err = guestscript.PutOutcome(strings.TrimSpace(said.String()), p)
		if err != nil {
			return err
		}
		var out string
		if out, err = c.shell(ctx, guestscript.Put, "", "end", p, temp, fmt.Sprintf("%04o", mode)); err == nil {
			return guestscript.PutOutcome(strings.TrimSpace(out), p)
		}
	}
	_, _ = c.late(ctx, guestscript.Put, "abort", p, temp)
	return err
}

// ReadFile copies a file of the guest. It copies as many bytes as the file had
// when it was looked at.
func (c *Client) ReadFile(ctx context.Context, p string, to io.Writer) (providers.FileInfo, error) {
	var info providers.FileInfo
	if err := guestcall.CheckRead(p); err != nil {
		return info, c.kind(ctx, err)
	}
	err := c.inGuest(ctx, func(conn *connection) error {
		release, err := conn.reserve(ctx)
		if err != nil {
			return err
		}
		defer release()
		f := guestscript.NewFile(p, to)
		// All of it comes with the answer, however long it is.
		if err := conn.stream(ctx, guestscript.Get, nil, new(string), f.Deliver, p, strconv.Itoa(1<<62)); err != nil {
			return err
		}
		info, err = f.End()
		return err
	})
	return info, err
}
