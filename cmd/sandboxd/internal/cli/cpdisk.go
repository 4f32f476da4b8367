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

	"k8s.io/apimachinery/pkg/api/meta"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/client"
)

// isOff tells whether a copy is to be read from the disk: out of a snapshot, or of a
// sandbox whose machine was seen not to run.
func isOff(ctx context.Context, c *client.Client, from cpSide, snapshot string) (bool, error) {
	switch {
	case snapshot != "" && !from.guest:
		return false, errors.New("--snapshot says what to copy out of, and this copy goes into a sandbox: a snapshot never changes")
	case snapshot != "":
		return true, nil
	case !from.guest:
		return false, nil
	}
	sbx := &v1.Sandbox{}
	if err := c.Get(ctx, from.key, sbx); err != nil {
		return false, err
	}
	return sbx.Status.MachineID != "" && meta.IsStatusConditionFalse(sbx.Status.Conditions, v1.ConditionPoweredOn), nil
}

// copyFromDisk copies out of a disk.
func (a *app) copyFromDisk(ctx context.Context, c *client.Client, from, to cpSide, snapshot string) error {
	target := to.path
	if target != stdio {
		info, err := os.Stat(target)
		switch {
		case err == nil && info.IsDir() && from.path != "/":
			target = filepath.Join(target, path.Base(from.path))
		case err != nil && to.dir:
			return fmt.Errorf("%s: there is no such directory", to.path)
		}
	}
	file := func(info client.FileInfo, r io.Reader) error {
		if target == stdio {
			_, err := io.Copy(a.Out, r)
			return err
		}
		return replaceFile(target, func(f *os.File) (os.FileMode, error) {
			_, err := io.Copy(f, r)
			return info.Mode, err
		})
	}
	dir := func(r io.Reader) error {
		if target == stdio {
			return fmt.Errorf("%s is a directory: name a directory of this host to copy it to", from.path)
		}
		if err := os.Mkdir(target, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s: it cannot be made: %w", target, pathReason(err))
		}
		return client.UnpackDir(ctx, r, target)
	}
	return c.ReadDisk(ctx, from.key, from.path, snapshot, file, dir)
}

// replaceFile writes a file, which becomes visible as a whole or not at all, but for
// what is no regular file, such as a device or a pipe: that is written to.
func replaceFile(target string, write func(*os.File) (os.FileMode, error)) (err error) {
	if resolved, err := filepath.EvalSymlinks(target); err == nil {
		target = resolved
	}
	if info, err := os.Stat(target); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(target, os.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("%s: it cannot be written: %w", target, pathReason(err))
		}
		_, err = write(f)
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(target), ".sandboxd-cp-*")
	if err != nil {
		return fmt.Errorf("%s: it cannot be written: %w", target, pathReason(err))
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	mode, err := write(f)
	if err == nil {
		err = f.Chmod(mode)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		if err = os.Rename(f.Name(), target); err != nil {
			err = fmt.Errorf("%s: it cannot be replaced: %w", target, linkReason(err))
		}
	}
	return err
}
