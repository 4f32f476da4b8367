package ssh

import (
	"context"
	"strings"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/guestscript"
)

// ConfigureGuest applies settings. The daemon's own key stays authorized besides
// those that are given: without it nothing could be changed any more.
func (c *Client) ConfigureGuest(ctx context.Context, cfg providers.GuestConfig) error {
	if err := guestcall.CheckConfig(cfg); err != nil {
		return c.kind(ctx, err)
	}
	own, err := c.g.AuthorizedKey()
	if err != nil {
		return c.kind(ctx, err)
	}
	return c.inGuest(ctx, func(conn *connection) error {
		release, err := conn.reserve(ctx)
		if err != nil {
			return err
		}
		defer release()
		if cfg.User != "" {
			if err := conn.setKeys(ctx, cfg.User, append([]string{own}, cfg.SSHAuthorizedKeys...)); err != nil {
				return err
			}
		}
		for _, f := range cfg.Mounts {
			if err := conn.mount(ctx, c.p.Name(), f); err != nil {
				return err
			}
		}
		return nil
	})
}

// setKeys replaces a user's authorized ssh keys. They travel in the line: input
// that is cut off could lock everybody out.
func (c *connection) setKeys(ctx context.Context, user string, keys []string) error {
	if err := guestcall.CheckKeys(user, keys); err != nil {
		return err
	}
	out, err := c.shell(ctx, guestscript.Keys, guestscript.KeysInput(keys), user, guestscript.KeysInner)
	if err != nil {
		return err
	}
	return guestscript.KeysOutcome(strings.TrimSpace(out), user)
}

// mount mounts a shared folder that the machine offers, as its provider does.
func (c *connection) mount(ctx context.Context, provider v1.ProviderName, f v1.SharedFolder) error {
	sharing := guestscript.SharingOf(provider)
	out, err := c.shell(ctx, guestscript.Mount, "", sharing.Arguments(f)...)
	if err != nil {
		return err
	}
	return sharing.Outcome(strings.TrimSpace(out), f)
}
