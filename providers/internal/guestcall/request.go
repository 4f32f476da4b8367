package guestcall

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"strings"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// MaxArguments bounds a command with its environment, in bytes: what travels in
// one message of any way into a guest. More goes by a file.
const MaxArguments = 48 << 10

// maxPath is the length of a path, in bytes, that Linux takes.
const maxPath = 4096

var (
	envPattern  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)
	userPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,63}$`)
)

// CheckExec refuses, as ErrBadRequest, what cannot be passed to a guest.
func CheckExec(req providers.ExecRequest) error {
	if len(req.Command) == 0 || req.Command[0] == "" {
		return fmt.Errorf("%w: the command is empty", ErrBadRequest)
	}
	size := 0
	for _, s := range append(append([]string{req.Dir}, req.Command...), req.Env...) {
		if strings.ContainsRune(s, 0) {
			return fmt.Errorf("%w: an argument contains a NUL byte", ErrBadRequest)
		}
		size += len(s) + 1
	}
	for _, e := range req.Env {
		if !envPattern.MatchString(e) {
			return fmt.Errorf("%w: %.50q is not of the form NAME=value", ErrBadRequest, e)
		}
	}
	switch {
	case size > MaxArguments:
		return fmt.Errorf("%w: command and environment are longer than %d KiB", ErrBadRequest, MaxArguments>>10)
	case req.User != "" && !userPattern.MatchString(req.User):
		return fmt.Errorf("%w: %q is not a user name", ErrBadRequest, req.User)
	case req.Dir != "" && !path.IsAbs(req.Dir):
		return fmt.Errorf("%w: the directory %q is not absolute", ErrBadRequest, req.Dir)
	case req.MaxOutput < 0 || req.Timeout < 0:
		return fmt.Errorf("%w: a limit is negative", ErrBadRequest)
	}
	return nil
}

// CheckRead refuses, as ErrBadRequest, a path that no file can be read from.
func CheckRead(p string) error {
	if !path.IsAbs(p) || strings.ContainsRune(p, 0) || len(p) > maxPath {
		return fmt.Errorf("%w: %.100q is not an absolute path", ErrBadRequest, p)
	}
	return nil
}

// CheckWrite refuses, as ErrBadRequest, a path or mode that no file can be
// written with.
func CheckWrite(p string, mode uint32) error {
	if err := CheckRead(p); err != nil {
		return err
	}
	if mode > 0o777 {
		return fmt.Errorf("%w: mode %#o has more than the permission bits", ErrBadRequest, mode)
	}
	return nil
}

// CheckKeys refuses, as ErrBadRequest, a user that can be none and keys that are
// no lines.
func CheckKeys(user string, keys []string) error {
	if !userPattern.MatchString(user) {
		return fmt.Errorf("%w: %q is not a user name", ErrBadRequest, user)
	}
	for _, k := range keys {
		if strings.ContainsAny(k, "\r\n\x00") {
			return fmt.Errorf("%w: an ssh key has more than one line", ErrBadRequest)
		}
	}
	return nil
}

// CheckConfig refuses, as ErrBadRequest, a configuration that is wrong in itself.
func CheckConfig(cfg providers.GuestConfig) error {
	if cfg.User == "" && len(cfg.SSHAuthorizedKeys) > 0 {
		return fmt.Errorf("%w: ssh keys are given, and no user they are for", ErrBadRequest)
	}
	return nil
}

// Guest is what configures a guest.
type Guest interface {
	// SetKeys replaces a user's authorized ssh keys.
	SetKeys(ctx context.Context, user string, keys []string) error
	// Mount mounts a shared folder that the machine offers. It may be repeated.
	Mount(ctx context.Context, f v1.SharedFolder) error
}

// Configure applies a configuration. offered are the shared folders that the
// machine was started with, by name, and whether they are read-only; any other is
// ErrBadRequest. Without a user no keys are touched.
func Configure(ctx context.Context, g Guest, cfg providers.GuestConfig, offered map[string]bool) error {
	if err := CheckConfig(cfg); err != nil {
		return err
	}
	for _, f := range cfg.Mounts {
		switch readOnly, ok := offered[f.Name]; {
		case !ok:
			return fmt.Errorf("%w: the machine was not started with the shared folder %q", ErrBadRequest, f.Name)
		case readOnly && !f.IsReadOnly():
			return fmt.Errorf("%w: the machine was started with the shared folder %q read-only", ErrBadRequest, f.Name)
		}
	}
	if cfg.User != "" {
		if err := g.SetKeys(ctx, cfg.User, cfg.SSHAuthorizedKeys); err != nil {
			return err
		}
	}
	for _, f := range cfg.Mounts {
		if err := g.Mount(ctx, f); err != nil {
			return err
		}
	}
	return nil
}
