package ssh

import (
	"context"
	"fmt"
	"strings"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestscript"
)

// ConfigureGuest applies settings. The daemon's own key stays authorized besides
// those that are given: without it nothing could be changed any more.
func (c *Client) ConfigureGuest(ctx context.Context, cfg providers.GuestConfig) error {
	if cfg.User == "" && len(cfg.SSHAuthorizedKeys) > 0 {
		return c.kind(ctx, fmt.Errorf("%w: ssh keys are given, and no user they are for", errBadRequest))
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
	if !userPattern.MatchString(user) {
		return fmt.Errorf("%w: %q is not a user name", errBadRequest, user)
	}
	for _, k := range keys {
		if strings.ContainsAny(k, "\r\n\x00") {
			return fmt.Errorf("%w: an ssh key has more than one line", errBadRequest)
		}
	}
	out, err := c.shell(ctx, guestscript.Keys, strings.Join(keys, "\n")+"\n", user, guestscript.KeysInner)
	if err != nil {
		return err
	}
	switch word := strings.TrimSpace(out); word {
	case "ok":
		return nil
	case "user":
		return fmt.Errorf("%w: the guest has no user %q", errBadRequest, user)
	case "home":
		return fmt.Errorf("%w: user %q has no home directory in the guest that can be written", errRefused, user)
	default:
		return fmt.Errorf("%w: its report on ssh keys is not understood: %q", errRefused, printable(word))
	}
}

// mount mounts a shared folder that the machine offers, as its provider does.
func (c *connection) mount(ctx context.Context, provider v1.ProviderName, f v1.SharedFolder) error {
	kind, options, modules := "9p", "trans=virtio,version=9p2000.L,msize=262144,", "9pnet_virtio 9p"
	if provider == v1.ProviderVirtualBox {
		kind, options, modules = "vboxsf", "", "vboxsf"
	}
	options += "nosuid,nodev,rw"
	if f.IsReadOnly() {
		options = strings.TrimSuffix(options, "rw") + "ro"
	}
	out, err := c.shell(ctx, mountScript, "", kind, options, modules, f.Name, f.GuestPath())
	if err != nil {
		return err
	}
	switch word, rest, _ := strings.Cut(strings.TrimSpace(out), " "); word {
	case "ok":
		return nil
	case "root":
		return fmt.Errorf("%w to mount %q on %s: only root may, and the image's guest.user is not root", errRefused, f.Name, f.GuestPath())
	case "directory":
		return fmt.Errorf("%w: %s cannot be made in the guest", errBadRequest, f.GuestPath())
	case "unsupported":
		return fmt.Errorf("%w for shared folders: its kernel has no file system %s", errGuestLacks, kind)
	case "failed":
		return fmt.Errorf("%w to mount %q on %s: %s", errRefused, f.Name, f.GuestPath(), printable(rest))
	default:
		return fmt.Errorf("%w: its report on folder %q is not understood: %q", errRefused, f.Name, printable(out))
	}
}
