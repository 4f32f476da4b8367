package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/guest/archive"
)

func (a *app) cp() *cobra.Command {
	var snapshot string
	cmd := &cobra.Command{
		Use:   "cp SOURCE DESTINATION",
		Short: "Copy files into and out of a sandbox",
		Long: `Copy a file or a directory into a sandbox or out of one. The side in the sandbox
is SANDBOX:/PATH or NAMESPACE/SANDBOX:/PATH; - stands for standard input or
output. As with cp, a destination that is a directory gets the source under its
own name, and any other becomes a copy of it. Directories need a tar in the guest.

Out of a sandbox that is stopped or suspended, and out of a snapshot, files are read
from the disk on the host: the guest takes no part in it.

What comes out of a sandbox is written below the destination only: links that
lead out of it and special files are refused. A copy ends in an error when it is
larger than 64 GiB, whatever the guest says of its files.`,
		GroupID: groupGuests,
		Example: examples(`
sandboxd cp ./script.sh web:/tmp/script.sh
sandboxd cp web:/var/log ./logs
tar -c src | sandboxd cp - web:/tmp/src.tar
sandboxd cp web:/etc/os-release -
sandboxd cp --snapshot before web:/etc ./etc-before`),
		Args: wantArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, to, err := a.cpArgs(args[0], args[1])
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			switch off, err := isOff(cmd.Context(), c, from, snapshot); {
			case err != nil:
				return err
			case off:
				return a.copyFromDisk(cmd.Context(), c, from, to, snapshot)
			case from.guest:
				return a.copyOut(cmd.Context(), c, from, to)
			}
			return a.copyIn(cmd.Context(), c, from, to)
		},
	}
	cmd.Flags().StringVar(&snapshot, "snapshot", "", "Copy out of this snapshot of the sandbox")
	cmd.ValidArgsFunction = a.completeCopy
	return a.namespaced(cmd)
}

// cpSide is one side of a copy.
type cpSide struct {
	guest bool
	key   types.NamespacedName
	path  string
	// dir: the path ends with a slash, so it must be a directory.
	dir bool
}

const stdio = "-"

// cpArgs reads both sides: exactly one is in a sandbox.
func (a *app) cpArgs(source, destination string) (from, to cpSide, err error) {
	if from, err = a.parseSide(source); err != nil {
		return from, to, err
	}
	if to, err = a.parseSide(destination); err != nil {
		return from, to, err
	}
	switch {
	case from.guest && to.guest:
		return from, to, errors.New("both sides are in a sandbox: copy through this host, in two steps")
	case !from.guest && !to.guest:
		return from, to, errors.New("no side is in a sandbox: name one as SANDBOX:/PATH")
	}
	return from, to, nil
}

// parseSide reads one side. A path with a slash before its first colon that is
// not of the form NAMESPACE/SANDBOX:/… is one of this host.
func (a *app) parseSide(text string) (cpSide, error) {
	name, rest, colon := strings.Cut(text, ":")
	if text == stdio || !colon || strings.HasPrefix(text, ".") || strings.HasPrefix(text, "/") || strings.Count(name, "/") > 1 {
		return cpSide{path: text, dir: strings.HasSuffix(text, "/")}, nil
	}
	key, err := a.sandboxKey(name)
	if err != nil {
		return cpSide{}, err
	}
	if !path.IsAbs(rest) {
		return cpSide{}, fmt.Errorf("%q is not an absolute path in the sandbox: write %s:/PATH (and ./%s for a file of this host)", text, name, text)
	}
	return cpSide{guest: true, key: key, path: path.Clean(rest), dir: strings.HasSuffix(rest, "/")}, nil
}

// copyIn copies into a sandbox.
func (a *app) copyIn(ctx context.Context, c *client.Client, from, to cpSide) error {
	if from.path == stdio {
		if to.dir {
			return fmt.Errorf("standard input has no name: say which file in %s it becomes", to.path)
		}
		return c.WriteFile(ctx, to.key, to.path, 0o644, a.In)
	}
	info, err := os.Stat(from.path)
	if err != nil {
		return fmt.Errorf("%s: it cannot be read: %w", from.path, pathReason(err))
	}
	name := filepath.Base(filepath.Clean(from.path))
	isDir, err := c.IsDir(ctx, to.key, to.path)
	switch {
	case err != nil:
		return err
	case isDir && name != "." && name != ".." && name != "/":
		to.path = path.Join(to.path, name)
	case to.dir && !info.IsDir() && !isDir:
		return fmt.Errorf("%s: there is no such directory in the sandbox", to.path)
	}
	if info.IsDir() {
		return c.WriteDir(ctx, to.key, to.path, from.path)
	}
	f, err := os.Open(from.path)
	if err != nil {
		return fmt.Errorf("%s: it cannot be read: %w", from.path, pathReason(err))
	}
	defer func() { _ = f.Close() }()
	return c.WriteFile(ctx, to.key, to.path, info.Mode(), f)
}

// copyOut copies out of a sandbox.
func (a *app) copyOut(ctx context.Context, c *client.Client, from, to cpSide) error {
	if to.path == stdio {
		_, err := c.ReadFile(ctx, from.key, from.path, a.Out)
		return err
	}
	target := to.path
	info, err := os.Stat(target)
	switch {
	case err == nil && info.IsDir() && from.path != "/":
		target = filepath.Join(target, path.Base(from.path))
	case err != nil && to.dir:
		return fmt.Errorf("%s: there is no such directory", to.path)
	}
	isDir, err := c.IsDir(ctx, from.key, from.path)
	if err != nil {
		return err
	}
	if !isDir {
		return copyFileOut(ctx, c, from, target)
	}
	if err := os.Mkdir(target, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s: it cannot be made: %w", target, pathReason(err))
	}
	return c.ReadDir(ctx, from.key, from.path, target, archive.DefaultLimits)
}

// copyFileOut copies a file.
func copyFileOut(ctx context.Context, c *client.Client, from cpSide, target string) error {
	return replaceFile(target, func(f *os.File) (os.FileMode, error) {
		info, err := c.ReadFile(ctx, from.key, from.path, &limited{w: f, left: archive.DefaultLimits.Bytes})
		return info.Mode, err
	})
}

// limited takes so many bytes of what a guest sends, and no more.
type limited struct {
	w    io.Writer
	left int64
}

func (l *limited) Write(p []byte) (int, error) {
	if int64(len(p)) > l.left {
		return 0, errors.New("the file in the guest is larger than a copy may be: read a part of it with exec")
	}
	n, err := l.w.Write(p)
	l.left -= int64(n)
	return n, err
}

// pathReason leaves out the path that an error repeats.
func pathReason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

func linkReason(err error) error {
	var l *os.LinkError
	if errors.As(err, &l) {
		return l.Err
	}
	return err
}
