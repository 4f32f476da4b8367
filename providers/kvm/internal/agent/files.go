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
	"sandboxd.dev/sandboxd/providers/internal/guestscript"
)

// Errors of files and of the guest's configuration.
var (
	// ErrNoFile: the guest has no such file or directory.
	ErrNoFile = errors.New("no such file or directory")
	// ErrGuestLacks: the guest cannot do it.
	ErrGuestLacks = errors.New("the guest lacks support")
)

func checkPath(p string) error {
	if !path.IsAbs(p) || strings.ContainsRune(p, 0) || len(p) > 4096 {
		return fmt.Errorf("%w: %.100q is not an absolute path", ErrBadRequest, p)
	}
	return nil
}

// WriteFile replaces a file of the guest; see providers.Guests.
func (c *Client) WriteFile(ctx context.Context, p string, mode uint32, from io.Reader) error {
	if err := checkPath(p); err != nil {
		return err
	}
	if mode > 0o777 {
		return fmt.Errorf("%w: mode %#o has more than the permission bits", ErrBadRequest, mode)
	}
	temp := strings.TrimSuffix(path.Dir(p), "/") + "/.sandboxd-" + token()
	put := func(ctx context.Context, verb string, content []byte) error {
		out, err := c.shell(ctx, guestscript.Put, content, verb, p, temp, fmt.Sprintf("%04o", mode))
		if err != nil {
			return err
		}
		return putOutcome(out, p)
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
		return fmt.Errorf("%w: input: %w", ErrCaller, err)
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

func putOutcome(out []byte, p string) error {
	switch word, _ := cutLine(out); word {
	case "ok":
		return nil
	case "missing":
		return fmt.Errorf("%w: the directory of %q does not exist in the guest", ErrNoFile, p)
	case "directory":
		return fmt.Errorf("%w: %q is a directory", ErrBadRequest, p)
	case "denied":
		return fmt.Errorf("%w: %q cannot be written in the guest", ErrBadRequest, p)
	case "full":
		return fmt.Errorf("%w: %q cannot be written to its end; is the guest's disk full?", ErrRefused, p)
	default:
		return fmt.Errorf("the guest's report on %q is not understood: %q", p, Printable(word))
	}
}

// ReadFile copies a file of the guest; see providers.Guests. It copies as many
// bytes as the file had when it was looked at.
func (c *Client) ReadFile(ctx context.Context, p string, to io.Writer) (providers.FileInfo, error) {
	if err := checkPath(p); err != nil {
		return providers.FileInfo{}, err
	}
	out, err := c.shell(ctx, guestscript.Get, nil, p, strconv.Itoa(inlineMax))
	if err != nil {
		return providers.FileInfo{}, err
	}
	line, content := cutLine(out)
	info, err := parseFileInfo(line, p)
	if err != nil {
		return providers.FileInfo{}, err
	}
	if info.Size <= inlineMax {
		if int64(len(content)) != info.Size {
			return info, fmt.Errorf("%w: %q changed while it was read", ErrRefused, p)
		}
		if _, err := to.Write(content); err != nil {
			return info, fmt.Errorf("%w: output: %w", ErrCaller, err)
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
			return fmt.Errorf("%w: output: %w", ErrCaller, err)
		}
		size -= int64(len(data))
		if size > 0 && (eof || len(data) == 0) {
			return fmt.Errorf("%w: the file became shorter while it was read", ErrRefused)
		}
	}
	return nil
}

func parseFileInfo(line, p string) (providers.FileInfo, error) {
	f := strings.Fields(line)
	if len(f) == 0 {
		f = []string{""}
	}
	switch f[0] {
	case "missing":
		return providers.FileInfo{}, fmt.Errorf("%w: %q does not exist in the guest", ErrNoFile, p)
	case "irregular":
		return providers.FileInfo{}, fmt.Errorf("%w: %q is not a regular file", ErrBadRequest, p)
	case "denied":
		return providers.FileInfo{}, fmt.Errorf("%w: %q cannot be read in the guest", ErrBadRequest, p)
	}
	bad := fmt.Errorf("the guest's report on %q is not understood: %q", p, Printable(line))
	if f[0] != "ok" || len(f) != 3 {
		return providers.FileInfo{}, bad
	}
	size, err := strconv.ParseUint(f[1], 10, 62)
	if err != nil {
		return providers.FileInfo{}, bad
	}
	mode, err := strconv.ParseUint(f[2], 8, 16)
	if err != nil {
		return providers.FileInfo{}, bad
	}
	return providers.FileInfo{Size: int64(size), Mode: uint32(mode) & 0o777}, nil
}

// SetKeys replaces a user's authorized ssh keys.
func (c *Client) SetKeys(ctx context.Context, user string, keys []string) error {
	if !userPattern.MatchString(user) {
		return fmt.Errorf("%w: %q is not a user name", ErrBadRequest, user)
	}
	for _, k := range keys {
		if strings.ContainsAny(k, "\r\n\x00") {
			return fmt.Errorf("%w: an ssh key has more than one line", ErrBadRequest)
		}
	}
	err := c.addSSHKeys(ctx, user, keys)
	if err == nil || !errors.Is(err, ErrRefused) {
		return err
	}
	// Old agents lack the command, and new ones refuse it for other reasons
	// too; the script finds out which.
	content := strings.Join(keys, "\n")
	if content != "" {
		content += "\n"
	}
	out, err := c.shell(ctx, guestscript.Keys, []byte(content), user, guestscript.KeysInner)
	if err != nil {
		return err
	}
	switch word, _ := cutLine(out); word {
	case "ok":
		return nil
	case "user":
		return fmt.Errorf("%w: the guest has no user %q", ErrBadRequest, user)
	case "home":
		return fmt.Errorf("%w: user %q has no home directory in the guest that can be written", ErrRefused, user)
	default:
		return fmt.Errorf("the guest's report on ssh keys is not understood: %q", Printable(word))
	}
}

// Mount mounts a shared folder that the machine offers.
func (c *Client) Mount(ctx context.Context, f v1.SharedFolder) error {
	mode := "rw"
	if f.IsReadOnly() {
		mode = "ro"
	}
	out, err := c.shell(ctx, mountScript, nil, f.Name, f.GuestPath(), mode)
	if err != nil {
		return err
	}
	line, _ := cutLine(out)
	switch word, rest, _ := strings.Cut(line, " "); word {
	case "ok":
		return nil
	case "directory":
		return fmt.Errorf("%w: %s cannot be made in the guest", ErrBadRequest, f.GuestPath())
	case "unsupported":
		return fmt.Errorf("%w for shared folders: its kernel has no 9p file system", ErrGuestLacks)
	case "failed":
		return fmt.Errorf("%w to mount %q on %s: %s", ErrRefused, f.Name, f.GuestPath(), Printable(rest))
	default:
		return fmt.Errorf("the guest's report on folder %q is not understood: %q", f.Name, Printable(line))
	}
}
