package guestcontrol

import (
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
	temp := strings.TrimSuffix(path.Dir(p), "/") + "/.sandboxd-" + token()
	out, err := c.shell(ctx, guestscript.Put, from, "all", p, temp, fmt.Sprintf("%04o", mode))
	if err != nil {
		if ctx.Err() != nil {
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
			defer cancel()
			_, _ = c.shell(late, guestscript.Put, nil, "abort", p, temp)
		}
		return err
	}
	return guestscript.PutOutcome(firstWord(out), p)
}

func firstWord(s string) string {
	word, _, _ := strings.Cut(s, "\n")
	return strings.TrimSpace(word)
}

// ReadFile copies a file of the guest; see providers.Guests. It copies as many
// bytes as the file had when it was looked at.
func (c *Client) ReadFile(ctx context.Context, p string, to io.Writer) (providers.FileInfo, error) {
	if err := guestcall.CheckRead(p); err != nil {
		return providers.FileInfo{}, err
	}
	f := guestscript.NewFile(p, to)
	var refused error
	err := c.stream(ctx, false, guestscript.Get, nil, func(b []byte) error {
		if refused == nil {
			refused = f.Deliver(b)
		}
		if errors.Is(refused, guestcall.ErrCaller) {
			return refused
		}
		return nil // a script that has said what is wrong ends by itself
	}, p, strconv.FormatInt(1<<62, 10))
	if err == nil {
		err = refused
	}
	if err != nil {
		return providers.FileInfo{}, err
	}
	return f.End()
}

// SetKeys replaces a user's authorized ssh keys.
func (c *Client) SetKeys(ctx context.Context, user string, keys []string) error {
	if err := guestcall.CheckKeys(user, keys); err != nil {
		return err
	}
	out, err := c.shell(ctx, guestscript.Keys, strings.NewReader(guestscript.KeysInput(keys)), user, guestscript.KeysInner)
	if err != nil {
		return err
	}
	return guestscript.KeysOutcome(firstWord(out), user)
}

// Mount mounts a shared folder that the machine offers.
func (c *Client) Mount(ctx context.Context, f v1.SharedFolder) error {
	sharing := guestscript.SharingOf(v1.ProviderVirtualBox)
	out, err := c.shell(ctx, guestscript.Mount, nil, sharing.Arguments(f)...)
	if err != nil {
		return err
	}
	return sharing.Outcome(firstWord(out), f)
}
