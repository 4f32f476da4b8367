package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/daemon"
	"sandboxd.dev/sandboxd/store/bolt"
)

func (a *app) backup() *cobra.Command {
	return a.connected(&cobra.Command{
		Use:   "backup FILE|-",
		Short: "Copy the daemon's store while it is in use",
		Long: `Copy the daemon's store, which holds every object, while it is in use. The copy
holds every write that was acknowledged before. A file that exists is replaced,
once the copy is whole and was checked. Images and disks of machines are not in
the store: back up the data folder for them. The copy holds Secrets in plain
text; the file is for its owner only.`,
		GroupID: groupDaemon,
		Example: examples(`
sandboxd backup /var/backups/sandboxd.db
sandboxd backup - | gzip > sandboxd.db.gz`),
		Args: wantArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if args[0] == "-" {
				return c.Backup(cmd.Context(), a.Out)
			}
			size, err := backupTo(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Out, "%s: %d bytes, checked\n", args[0], size)
			return nil
		},
	})
}

// backupTo writes a backup under another name and renames it once it is on disk
// and checked.
func backupTo(ctx context.Context, c *client.Client, path string) (size int64, err error) {
	if path, err = outputFile(path); err != nil {
		return 0, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return 0, fmt.Errorf("backup %s: cannot be written: %w", path, pathReason(err))
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if err := errors.Join(c.Backup(ctx, f), f.Sync()); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			err = fmt.Errorf("backup %s: no space is left in %s: make room there, or name another folder", path, filepath.Dir(path))
		}
		return 0, err
	}
	if size, err = f.Seek(0, io.SeekEnd); err == nil {
		err = f.Close()
	}
	if err == nil {
		err = bolt.Check(f.Name())
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return size, err
}

func (a *app) restore() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Put a backup in the place of the store, while no daemon runs",
		Long: `Put a backup in the place of the daemon's store, while no daemon runs. The backup
is checked first; the store that was there is kept beside it, under a name that is
printed. It takes the daemon's settings, to find the store.

The daemon then makes the hypervisor match the objects of the backup: sandboxes
that were deleted since are made again, and machines that were made since belong
to no object and are collected. Make sure of what is in it before you start it.`,
		GroupID: groupDaemon,
		Example: examples(`
sudo systemctl stop sandboxd
sudo sandboxd restore /var/backups/sandboxd.db
sudo systemctl start sandboxd`),
		Args: wantArgs(1),
	}
	s := addSettings(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		c, err := s.load()
		if err != nil {
			return err
		}
		path := filepath.Join(c.DataDir, daemon.StoreFile)
		aside, err := bolt.Restore(args[0], path)
		if err != nil {
			return err
		}
		fmt.Fprintf(a.Out, "%s restored\n", path)
		if aside != "" {
			fmt.Fprintf(a.Out, "the former store is %s\n", aside)
		}
		return nil
	}
	return cmd
}
