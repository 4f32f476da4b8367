package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/guestscript"
)

// WriteFile replaces a file of the guest; see providers.Guests.
func (c *Client) WriteFile(ctx context.Context, p string, mode uint32, from io.Reader) error {
	if err := guestcall.CheckWrite(p, mode); err != nil {
		return err
	}
	temp := strings.TrimSuffix(path.Dir(p), "/") + "/.sandboxd-" + guestscript.Token()
	put := func(ctx context.Context, verb string, content []byte) error {
		out, err := c.shell(ctx, guestscript.Put, content, verb, p, temp, fmt.Sprintf("%04o", mode))
		if err != nil {
			return err
		}
		word, _ := cutLine(out)
		return guestscript.PutOutcome(word, p)
	}
	abort := func() {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
		defer cancel()
		_ = put(late, "abort", nil)
	}

	head := make([]byte, inlineMax)
	n, err := io.ReadFull(from, head)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		if err := put(ctx, "all", head[:n]); err != nil {
			if ctx.Err() != nil {
				abort()
			}
			return err
		}
		return nil
	case err != nil:
		return guestcall.InputError(err)
	}
	if err := put(ctx, "begin", nil); err != nil {
		return err
	}
	err = c.fill(ctx, temp, io.MultiReader(bytes.NewReader(head), from))
	if err == nil {
		err = put(ctx, "end", nil)
	}
	if err != nil {
		abort()
	}
	return err
}

// ReadFile copies a file of the guest; see providers.Guests. It copies as many
// bytes as the file had when it was looked at.
func (c *Client) ReadFile(ctx context.Context, p string, to io.Writer) (providers.FileInfo, error) {
	if err := guestcall.CheckRead(p); err != nil {
		return providers.FileInfo{}, err
	}
	out, err := c.shell(ctx, guestscript.Get, nil, p, strconv.Itoa(inlineMax))
	if err != nil {
		return providers.FileInfo{}, err
	}
	line, content := cutLine(out)
	info, err := guestscript.GetOutcome(line, p)
	if err != nil {
		return providers.FileInfo{}, err
	}
	if info.Size <= inlineMax {
		if int64(len(content)) != info.Size {
			return info, fmt.Errorf("%w: %q changed while it was read", guestcall.ErrRefused, p)
		}
		if _, err := to.Write(content); err != nil {
			return info, guestcall.OutputError(err)
		}
		return info, nil
	}
	handle, err := c.open(ctx, p, "r")
	if err != nil {
		return info, err
	}
	err = c.copyOut(ctx, handle, info.Size, to)
	return info, first(err, c.close(context.WithoutCancel(ctx), handle))
}

func (c *Client) copyOut(ctx context.Context, handle, size int64, to io.Writer) error {
	for size > 0 {
		data, eof, err := c.read(ctx, handle, int(min(chunk, size)))
		if err != nil {
			return err
		}
		if _, err := to.Write(data); err != nil {
			return guestcall.OutputError(err)
		}
		size -= int64(len(data))
		if size > 0 && (eof || len(data) == 0) {
			return fmt.Errorf("%w: the file became shorter while it was read", guestcall.ErrRefused)
		}
	}
	return nil
}

// SetKeys replaces a user's authorized ssh keys.
func (c *Client) SetKeys(ctx context.Context, user string, keys []string) error {
	if err := guestcall.CheckKeys(user, keys); err != nil {
		return err
	}
	err := c.addSSHKeys(ctx, user, keys)
	if err == nil || !errors.Is(err, guestcall.ErrRefused) {
		return err
	}
	// Old agents lack the command, and new ones refuse it for other reasons
	// too; the script finds out which.
	out, err := c.shell(ctx, guestscript.Keys, []byte(guestscript.KeysInput(keys)), user, guestscript.KeysInner)
	if err != nil {
		return err
	}
	word, _ := cutLine(out)
	return guestscript.KeysOutcome(word, user)
}

// Mount mounts a shared folder that the machine offers.
func (c *Client) Mount(ctx context.Context, f v1.SharedFolder) error {
	sharing := guestscript.SharingOf(v1.ProviderKVM)
	out, err := c.shell(ctx, guestscript.Mount, nil, sharing.Arguments(f)...)
	if err != nil {
		return err
	}
	line, _ := cutLine(out)
	return sharing.Outcome(line, f)
}
