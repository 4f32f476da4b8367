//go:build linux

package kvm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"sandboxd.dev/sandboxd/providers"
)

// checkFolders makes sure that folders of the host, whose paths were resolved when
// their machine was made, still lie where they did. QEMU follows symbolic links, and
// whoever may write beside a shared folder may have put one in its place since.
func checkFolders(object string, folders []string) error {
	for _, path := range folders {
		resolved, err := filepath.EvalSymlinks(path)
		var info os.FileInfo
		if err == nil {
			info, err = os.Lstat(resolved)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), err == nil && !info.IsDir():
			return providers.Errorf(providers.ErrInvalid, object, "the shared folder %s is not a directory of the host", path)
		case err != nil: // such as a server's that does not answer
			return providers.Errorf(providers.ErrUnavailable, object, "the shared folder %s cannot be looked at: %w", path, err)
		case resolved != filepath.Clean(path):
			return providers.Errorf(providers.ErrInvalid, object, "the shared folder %s lies behind a symbolic link by now, which leads to %s: remove the link, or name the folder itself", path, resolved)
		}
	}
	return nil
}
