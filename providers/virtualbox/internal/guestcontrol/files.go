package guestcontrol

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
	out, err := c.shell(ctx, guestscript.Put, from, "all", p, temp, fmt.Sprintf("%04o", mode))
	if err != nil {
		if ctx.Err() != nil {
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
			defer cancel()
			_, _ = c.shell(late, guestscript.Put, nil, "abort", p, temp)
		}
		return err
	}
	switch word := firstWord(out); word {
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

func firstWord(s string) string {
	word, _, _ := strings.Cut(s, "\n")
	return strings.TrimSpace(word)
}

// maxLine bounds the line with which a file begins, in bytes.
const maxLine = 200

// ReadFile copies a file of the guest; see providers.Guests. It copies as many
// bytes as the file had when it was looked at.
func (c *Client) ReadFile(ctx context.Context, p string, to io.Writer) (providers.FileInfo, error) {
	if err := checkPath(p); err != nil {
		return providers.FileInfo{}, err
	}
	var head []byte
	var info providers.FileInfo
	var answer error
	var left int64 = -1
	err := c.stream(ctx, false, guestscript.Get, nil, func(b []byte) error {
		if left < 0 {
			head = append(head, b...)
			end := bytes.IndexByte(head, '\n')
			if end < 0 && len(head) < maxLine || answer != nil {
				return nil
			}
			info, answer = parseFileInfo(string(head[:max(0, end)]), p)
			if answer != nil {
				return nil
			}
			left, b = info.Size, head[end+1:]
		}
		b = b[:min(int64(len(b)), left)]
		left -= int64(len(b))
		if len(b) == 0 {
			return nil
		}
		_, err := to.Write(b)
		return err
	}, p, strconv.FormatInt(1<<62, 10))
	switch {
	case err != nil:
		return providers.FileInfo{}, err
	case answer != nil:
		return providers.FileInfo{}, answer
	case left < 0:
		return parseFileInfo(string(head), p)
	case left > 0:
		return info, fmt.Errorf("%w: %q became shorter while it was read", ErrRefused, p)
	}
	return info, nil
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
	size, sizeErr := strconv.ParseUint(f[1], 10, 62)
	mode, modeErr := strconv.ParseUint(f[2], 8, 16)
	if errors.Join(sizeErr, modeErr) != nil {
		return providers.FileInfo{}, bad
	}
	return providers.FileInfo{Size: int64(size), Mode: uint32(mode) & 0o777}, nil
}

// SetKeys replaces a user's authorized ssh keys.
func (c *Client) SetKeys(ctx context.Context, user string, keys []string) error {
	if !userPattern.MatchString(user) {
		return fmt.Errorf("%w: %q is not a user name", ErrBadRequest, user)
	}
	content := ""
	for _, k := range keys {
		if strings.ContainsAny(k, "\r\n\x00") {
			return fmt.Errorf("%w: an ssh key has more than one line", ErrBadRequest)
		}
		content += k + "\n"
	}
	out, err := c.shell(ctx, guestscript.Keys, strings.NewReader(content), user, guestscript.KeysInner)
	if err != nil {
		return err
	}
	switch word := firstWord(out); word {
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
	switch word, rest, _ := strings.Cut(firstWord(out), " "); word {
	case "ok":
		return nil
	case "directory":
		return fmt.Errorf("%w: %s cannot be made in the guest", ErrBadRequest, f.GuestPath())
	case "unsupported":
		return fmt.Errorf("%w for shared folders: its kernel has no vboxsf file system", ErrGuestLacks)
	case "failed":
		return fmt.Errorf("%w to mount %q on %s: %s", ErrRefused, f.Name, f.GuestPath(), Printable(rest))
	default:
		return fmt.Errorf("the guest's report on folder %q is not understood: %q", f.Name, Printable(word))
	}
}
