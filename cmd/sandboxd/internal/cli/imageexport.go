package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/artifact"
	"sandboxd.dev/sandboxd/client"
)

// exportFlags say which disk of an image is meant.
type exportFlags struct{ format, revision string }

func (f *exportFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.format, "format", "", "Format of the file: qcow2, vdi or raw (default: as the provider keeps it, without a conversion)")
	offer(cmd, "format", "qcow2", "vdi", "raw")
	cmd.Flags().StringVar(&f.revision, "revision", "", "Revision of the image (default: the current one)")
}

func (a *app) imageExport() *cobra.Command {
	var which exportFlags
	cmd := &cobra.Command{
		Use:   "export NAME FILE",
		Short: "Write the disk of an image to a file",
		Long: `Write the disk of an image to a file, as a whole or not at all; - is standard output.
The digest of what was written is printed. Without --format it is the sealed file
itself, byte for byte: exported twice it is the same. What the image was imported
from is not kept, only its digest (status.digest) and what a guest sees of it.`,
		Example: examples(`
sandboxd image export debian debian.qcow2
sandboxd image export debian debian.vdi --format vdi`),
		Args: wantArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			name := plainName(args[0])
			if args[1] == stdio {
				got, err := c.ExportImage(cmd.Context(), name, which.options(nil), a.Out)
				if err == nil {
					fmt.Fprintln(a.Err, got.Digest)
				}
				return err
			}
			got, err := a.exportTo(cmd.Context(), c, name, which, args[1])
			if err == nil {
				fmt.Fprintf(a.Out, "%s  %s (%s, %s)\n", got.Digest, args[1], got.Format, bytesText(got.Size))
			}
			return err
		},
	}
	cmd.ValidArgsFunction = a.completeImages(completeFiles)
	which.add(cmd)
	return a.connected(cmd)
}

func (f exportFlags) options(begin func(client.Export)) client.ExportOptions {
	return client.ExportOptions{Format: v1.DiskFormat(f.format), Revision: f.revision, Begin: begin}
}

// exportTo writes a file that becomes visible as a whole or not at all.
func (a *app) exportTo(ctx context.Context, c *client.Client, name string, which exportFlags, path string) (got client.Export, err error) {
	if path, err = outputFile(path); err != nil {
		return got, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".sandboxd-export-*")
	if err != nil {
		return got, fmt.Errorf("%s: it cannot be written: %w", path, pathReason(err))
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	p := newProgress(a.Err)
	defer p.close()
	ref := "goldenimage/" + name
	p.set(ref, "the daemon prepares the file")
	w := &counted{w: f}
	w.told = func(tenths int64) { p.set(ref, fmt.Sprintf("%d%% of %s", 10*tenths, bytesText(w.total))) }
	got, err = c.ExportImage(ctx, name, which.options(func(e client.Export) { w.total = e.Size }), w)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		if err = os.Rename(f.Name(), path); err != nil {
			err = fmt.Errorf("%s: it cannot be replaced: %w", path, linkReason(err))
		}
	}
	return got, err
}

// counted tells how much was written, in tenths of the total.
type counted struct {
	w              io.Writer
	n, said, total int64
	told           func(tenths int64)
}

// Write implements io.Writer.
func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	if tenths := 10 * c.n / max(1, c.total); tenths > c.said {
		c.said = tenths
		c.told(tenths)
	}
	return n, err
}

func (a *app) imagePush() *cobra.Command {
	var which exportFlags
	var to artifact.Target
	cmd := &cobra.Command{
		Use:   "push NAME REFERENCE|FOLDER",
		Short: "Write an image to a registry or an OCI layout",
		Long: `Write the disk of an image as an OCI artifact to a registry, HOST[:PORT]/NAME:TAG, or
to a folder in the OCI image layout (a path that begins with / or ., or that is
there). The digest of its manifest is printed: an image whose source.oci.digest it is
gets the same disk. Pushing the same revision again writes the same manifest.
Registries are logged in to as "docker login" and "oras login" have noted.`,
		Example: examples(`
sandboxd image push debian registry.example/images/debian:13
sandboxd image push debian ./layout --tag 13`),
		Args: wantArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if isFolder(args[1]) {
				to.Layout = args[1]
			} else {
				to.Reference = args[1]
			}
			return a.push(cmd.Context(), plainName(args[0]), which, to)
		},
	}
	cmd.ValidArgsFunction = a.completeImages(completeFiles)
	which.add(cmd)
	cmd.Flags().StringVar(&to.Tag, "tag", "", "Tag in the folder (default "+artifact.DefaultTag+")")
	cmd.Flags().BoolVar(&to.PlainHTTP, "plain-http", false, "Speak http to the registry")
	return a.connected(cmd)
}

// isFolder tells whether an argument is a folder of this host, not a reference.
func isFolder(text string) bool {
	if strings.HasPrefix(text, "/") || strings.HasPrefix(text, ".") {
		return true
	}
	info, err := os.Stat(text)
	return err == nil && info.IsDir()
}

func (a *app) push(ctx context.Context, name string, which exportFlags, to artifact.Target) error {
	if err := to.Check(); err != nil {
		return err
	}
	images, err := a.goldenImages(ctx, []string{name})
	if err != nil {
		return err
	}
	if which.revision == "" {
		which.revision = images[0].Status.Revision // it stays the same while we are at it
	}
	disk := artifact.Disk{}
	for _, h := range images[0].Status.Revisions {
		if h.Revision == which.revision {
			disk.SealedAt = sealedAt(h)
		}
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	// Its digest is part of the manifest and known only once all of it has come.
	dir, err := os.MkdirTemp("", "sandboxd-push-")
	if err != nil {
		return fmt.Errorf("there is no folder for temporary files: %w", pathReason(err))
	}
	defer func() { _ = os.RemoveAll(dir) }()
	disk.Path = filepath.Join(dir, "disk")
	got, err := a.exportTo(ctx, c, name, which, disk.Path)
	if err != nil {
		return err
	}
	disk.Title, disk.Format = name+"."+string(got.Format), got.Format
	disk.Digest, disk.Size = got.Digest, got.Size
	manifest, err := artifact.Push(ctx, disk, to)
	if err == nil {
		fmt.Fprintf(a.Out, "%s  %s\n", manifest, to)
	}
	return err
}
