//go:build linux

package kvm

import (
	"path/filepath"

	"sandboxd.dev/sandboxd/providers"
)

// checkFolders makes sure that folders of the host, whose paths were resolved when
// their machine was made, still lie where they did. QEMU follows symbolic links, and
// whoever may write beside a shared folder may have put one in its place since.
func checkFolders(object string, folders []string) error {
	for _, path := range folders {
		resolved, err := filepath.EvalSymlinks(path)
		switch {
		case err != nil:
			return providers.Errorf(providers.ErrInvalid, object, "the shared folder %s is not a directory of the host", path)
		case resolved != filepath.Clean(path):
			return providers.Errorf(providers.ErrInvalid, object, "the shared folder %s lies behind a symbolic link by now, which leads to %s: remove the link, or name the folder itself", path, resolved)
		}
	}
	return nil
}
