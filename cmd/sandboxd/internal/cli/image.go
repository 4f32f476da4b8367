package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/watch"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/client"
)

func (a *app) image() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image COMMAND",
		Short: "Export, push, pull, list and prune golden images",
		Long: `What can be done with golden images besides applying, getting and deleting them:
take their disks out as files or OCI artifacts, bring artifacts in, and look after
their revisions.`,
		GroupID: groupObjects,
		Example: examples(`
sandboxd image ls
sandboxd image export debian debian.qcow2
sandboxd image push debian registry.example/images/debian:13
sandboxd image prune --dry-run`),
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.imageList(), a.imageHistory(), a.imagePrune(), a.imageExport(), a.imagePush(), a.imagePull())
	return cmd
}

func (a *app) imageList() *cobra.Command {
	return a.connected(&cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the images with their revisions, sizes and sources",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			images, err := a.goldenImages(cmd.Context(), nil)
			if err != nil {
				return err
			}
			if len(images) == 0 {
				fmt.Fprintln(a.Err, "There are no golden images.")
				return nil
			}
			return a.table(func(row func(...string)) {
				row("NAME", "PHASE", "PROVIDER", "SIZE", "ON DISK", "CLONES", "REVISIONS", "DIGEST", "SOURCE")
				for _, img := range images {
					row(img.Name, string(img.Status.Phase), string(img.Status.Provider), quantity(img.Status.VirtualSize),
						quantity(onDisk(img)), fmt.Sprint(img.Status.Clones), fmt.Sprint(len(img.Status.Revisions)),
						shortDigest(img.Status.Digest), currentSource(img))
				}
			})
		},
	})
}

func (a *app) imageHistory() *cobra.Command {
	return a.connected(&cobra.Command{
		Use:   "history NAME",
		Short: "List the revisions of an image, the youngest first",
		Long: `List the revisions of an image that are held on the host, the youngest first: what
each was made from, the digest of its source, how many sandboxes are clones of it,
and whether it is the current one or may be pruned.`,
		Args:              wantArgs(1),
		ValidArgsFunction: a.completeImages(),
		RunE: func(cmd *cobra.Command, args []string) error {
			images, err := a.goldenImages(cmd.Context(), args)
			if err != nil {
				return err
			}
			held := slices.Clone(images[0].Status.Revisions)
			slices.SortStableFunc(held, func(x, y v1.ImageRevision) int { return sealedAt(y).Compare(sealedAt(x)) })
			return a.table(func(row func(...string)) {
				row("REVISION", "STATE", "CLONES", "SIZE", "ON DISK", "AGE", "DIGEST", "SOURCE")
				for _, h := range held {
					row(h.Revision, revisionState(images[0], h), fmt.Sprint(h.Clones), quantity(h.VirtualSize), quantity(h.ActualSize),
						age(sealedAt(h)), h.Digest, h.Source)
				}
			})
		},
	})
}

func (a *app) imagePrune() *cobra.Command {
	var dryRun bool
	timeout := time.Minute
	cmd := &cobra.Command{
		Use:   "prune [NAME…]",
		Short: "Remove former revisions of images that nothing uses",
		Long: `Remove the former revisions of some or all images that no sandbox and no other
revision uses, also those that spec.revisionHistoryLimit keeps, and wait until they
are gone. The current revision of an image always stays.`,
		Example: examples(`
sandboxd image prune --dry-run
sandboxd image prune debian`),
		RunE: func(cmd *cobra.Command, args []string) error {
			images, err := a.goldenImages(cmd.Context(), args)
			if err != nil {
				return err
			}
			return a.prune(cmd.Context(), images, dryRun, timeout)
		},
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return a.completeNames(cmd.Context(), &v1.GoldenImageList{}, nil)
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "Only say what would be removed")
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "How long to wait until the revisions are gone")
	return a.connected(cmd)
}

// unusedOf lists the revisions that a prune removes.
func unusedOf(img v1.GoldenImage) []v1.ImageRevision {
	return slices.DeleteFunc(slices.Clone(img.Status.Revisions), func(h v1.ImageRevision) bool {
		return h.Wanted || h.Clones > 0 || h.Revision == img.Status.Revision
	})
}

func (a *app) prune(ctx context.Context, images []v1.GoldenImage, dryRun bool, timeout time.Duration) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeUp)
	defer cancel()
	pruned := 0
	for _, img := range images {
		doomed := unusedOf(img)
		if len(doomed) == 0 {
			continue
		}
		if !dryRun {
			if err := a.pruneOne(ctx, c, img, doomed); err != nil {
				return err
			}
		}
		for _, h := range doomed {
			word := "pruned"
			if dryRun {
				word = "would be pruned"
			}
			fmt.Fprintf(a.Out, "goldenimage/%s revision %s (%s) %s\n", img.Name, h.Revision, quantity(h.ActualSize), word)
			pruned++
		}
	}
	if pruned == 0 {
		fmt.Fprintln(a.Err, "There is nothing to prune: every revision is current or in use.")
	}
	return nil
}

// pruneOne asks for the prune of an image and waits until the revisions are gone.
func (a *app) pruneOne(ctx context.Context, c *client.Client, img v1.GoldenImage, doomed []v1.ImageRevision) error {
	before := img.DeepCopy()
	metav1.SetMetaDataAnnotation(&img.ObjectMeta, v1.AnnotationPruneBefore, time.Now().Add(time.Second).UTC().Format(time.RFC3339))
	if err := c.Patch(ctx, &img, crclient.MergeFrom(before)); err != nil {
		return err
	}
	left := func(now *v1.GoldenImage) bool {
		return slices.ContainsFunc(now.Status.Revisions, func(h v1.ImageRevision) bool {
			return slices.ContainsFunc(doomed, func(d v1.ImageRevision) bool { return d.Revision == h.Revision })
		})
	}
	watching, err := c.Watch(ctx, &v1.GoldenImageList{}, crclient.MatchingFields{"metadata.name": img.Name})
	if err != nil {
		return err
	}
	defer watching.Stop()
	for {
		select {
		case <-ctx.Done():
			if !errors.Is(context.Cause(ctx), errTimeUp) {
				return ctx.Err()
			}
			return fmt.Errorf("image %q: revisions that were to be pruned are still there: something on the hypervisor depends on them, such as a fork or a snapshot; see `sandboxd image history %s`", img.Name, img.Name)
		case e, ok := <-watching.ResultChan():
			now, is := e.Object.(*v1.GoldenImage)
			switch {
			case !ok:
				return fmt.Errorf("image %q: the daemon ended the watch: see `sandboxd image history %s`", img.Name, img.Name)
			case e.Type == watch.Deleted, is && !left(now):
				return nil
			}
		}
	}
}

// goldenImages gets some images by their names, or all.
func (a *app) goldenImages(ctx context.Context, names []string) ([]v1.GoldenImage, error) {
	c, err := a.client()
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		var list v1.GoldenImageList
		err := c.List(ctx, &list)
		return list.Items, err
	}
	var images []v1.GoldenImage
	for _, name := range names {
		img := v1.GoldenImage{}
		name = plainName(name)
		if err := c.Get(ctx, crclient.ObjectKey{Name: name}, &img); err != nil {
			if apierrors.IsNotFound(err) {
				return nil, fmt.Errorf("there is no image %q: `sandboxd image ls` lists them", name)
			}
			return nil, err
		}
		images = append(images, img)
	}
	return images, nil
}

// plainName reads the name of an image: NAME or goldenimage/NAME.
func plainName(text string) string {
	if name, ok := splitImage(text); ok {
		return name
	}
	return text
}

// table prints rows in columns.
func (a *app) table(rows func(row func(...string))) error {
	w := tabwriter.NewWriter(a.Out, 0, 8, 3, ' ', 0)
	rows(func(cells ...string) {
		for i, c := range cells {
			if cells[i] = printable(c); c == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	})
	return w.Flush()
}

func revisionState(img v1.GoldenImage, h v1.ImageRevision) string {
	switch {
	case h.Revision == img.Status.Revision:
		return "current"
	case h.Wanted:
		return "needed"
	case h.Clones > 0:
		return "in use"
	}
	return "unused"
}

func currentSource(img v1.GoldenImage) string {
	for _, h := range img.Status.Revisions {
		if h.Revision == img.Status.Revision {
			return h.Source
		}
	}
	return ""
}

// onDisk is what all revisions of an image take on the host.
func onDisk(img v1.GoldenImage) *resource.Quantity {
	sum := resource.NewQuantity(0, resource.BinarySI)
	for _, h := range img.Status.Revisions {
		if h.ActualSize != nil {
			sum.Add(*h.ActualSize)
		}
	}
	return sum
}

func quantity(q *resource.Quantity) string {
	if q == nil {
		return ""
	}
	return bytesText(q.Value())
}

// bytesText is a size as people read it.
func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, u := float64(n), 0
	for f >= 1024 && u < len(units)-1 {
		f, u = f/1024, u+1
	}
	if u == 0 || f >= 100 {
		return fmt.Sprintf("%.0f %s", f, units[u])
	}
	return fmt.Sprintf("%.1f %s", f, units[u])
}

// shortDigest is as much of a digest as tells two apart.
func shortDigest(d string) string {
	const most = len("sha256:") + 12
	return d[:min(len(d), most)]
}

func sealedAt(h v1.ImageRevision) time.Time {
	if h.SealedAt == nil {
		return time.Time{}
	}
	return h.SealedAt.Time
}

func age(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return duration.HumanDuration(time.Since(t))
}
