package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/kube"
	"sandboxd.dev/sandboxd/manifest"
)

func (a *app) delete() *cobra.Command {
	d := &deleter{app: a}
	cmd := &cobra.Command{
		Use:   "delete TYPE NAME… | TYPE/NAME… | TYPE -l LABELS | -f FILE",
		Short: "Delete objects",
		Long: `Delete objects and wait until they are gone: of a sandbox, its machine, disk,
network and snapshots go first. A golden image stays until no sandbox uses it any
more, and takes no new ones meanwhile; who uses it is shown while it is waited for.`,
		GroupID: groupObjects,
		Example: examples(`
sandboxd delete sandbox web
sandboxd delete sbx -l app=tests
sandboxd delete -f manifests/ -R --ignore-not-found`),
		RunE: func(cmd *cobra.Command, args []string) error { return d.run(cmd.Context(), args) },
	}
	d.files.add(cmd)
	d.chooser.add(cmd)
	d.addIgnore(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&d.every, "all", false, "All objects of the type")
	flags.BoolVar(&d.wait, "wait", true, "Wait until the objects are gone")
	flags.DurationVar(&d.timeout, "timeout", 0, "How long to wait (default: as long as it takes)")
	flags.StringVar(&d.dryRun, "dry-run", "none", "server: only try, change nothing; or none")
	flags.Lookup("dry-run").NoOptDefVal = "server"
	flags.StringVarP(&d.format, "output", "o", "", "name: print names only")
	cmd.ValidArgsFunction = a.completeObjects
	return a.namespaced(cmd)
}

// deleter is one run of delete.
type deleter struct {
	*app
	chooser
	files
	every, wait    bool
	timeout        time.Duration
	dryRun, format string
}

// doomed is an object that is to be deleted.
type doomed struct {
	awaited
	uid string
}

// GroupVersionKind is for manifest.InOrder.
func (d doomed) GroupVersionKind() schema.GroupVersionKind { return d.Kind }

func (d *deleter) run(ctx context.Context, args []string) error {
	switch {
	case d.dryRun != "none" && d.dryRun != "server":
		return fmt.Errorf("--dry-run %q is not one of none and server", d.dryRun)
	case d.format != "" && d.format != "name":
		return fmt.Errorf("output %q is not name", d.format)
	case len(args) == 0 && len(d.names) == 0:
		return errors.New("say what to delete: TYPE NAME, TYPE -l LABELS, or -f FILE")
	}
	api, err := d.api()
	if err != nil {
		return err
	}
	chosen, err := d.choose(ctx, api, args, d.chooser, d.files, d.every, true)
	if err != nil {
		return err
	}
	all := make([]doomed, len(chosen))
	for i, o := range chosen {
		all[i] = doomed{awaited: o}
	}
	if len(all) == 0 && !d.ignoreMissing {
		fmt.Fprintln(d.Err, "No resources found")
	}
	limit, asking, cancel := forever, ctx, context.CancelFunc(func() {})
	if d.timeout > 0 {
		limit = d.timeout
		asking, cancel = context.WithTimeout(ctx, limit)
	}
	defer cancel()
	until := time.Now().Add(limit)
	groups := manifest.Reversed(all)
	var errs []error
	var held []doomed // snapshots, which may wait for sandboxes that are deleted after them
	for i, group := range groups {
		deleted, err := d.deleteGroup(asking, api, group, &errs)
		if err != nil {
			return err
		}
		deleted = append(deleted, held...)
		if held = nil; manifest.Rank(group[0].Kind.GroupKind()) == manifest.RankSnapshot && i < len(groups)-1 {
			held = deleted
			continue
		}
		if d.dryRun != "none" || !d.wait {
			continue
		}
		if err := d.gone(ctx, api, deleted, until); err != nil {
			return err
		}
	}
	return firstOf(errs)
}

// forever is how long a wait without a limit may take.
const forever = 365 * 24 * time.Hour

// gone waits until objects are gone. Those that are not by then are deleted all the same,
// later.
func (d *deleter) gone(ctx context.Context, api *kube.API, all []doomed, until time.Time) error {
	var waits []awaited
	for _, o := range all {
		o.goal = goalGone(o.uid)
		waits = append(waits, o.awaited)
	}
	return d.waitFor(ctx, api, waits, time.Until(until), func(awaited) {})
}

// deleteGroup asks for the deletion of objects that may go at the same time. An
// object that cannot be deleted does not keep the others.
func (d *deleter) deleteGroup(ctx context.Context, api *kube.API, group []doomed, errs *[]error) ([]doomed, error) {
	var deleted []doomed
	type result struct {
		uid string
		err error
	}
	// What was found and not named may be gone by now: then it is as was asked for.
	found := d.every || d.labels != "" || d.fields != ""
	results, err := each(ctx, group, func(ctx context.Context, o doomed) (result, error) {
		uid, err := d.deleteOne(ctx, api, o)
		return result{uid, err}, nil
	})
	if err != nil {
		return nil, err
	}
	for i, r := range results {
		o := group[i]
		switch {
		case apierrors.IsNotFound(r.err) && (found || d.ignoreMissing):
			continue
		case r.err != nil:
			*errs = append(*errs, r.err)
			continue
		}
		o.uid = r.uid
		deleted = append(deleted, o)
		d.report(o)
	}
	return deleted, nil
}

func (d *deleter) report(o doomed) {
	suffix := ""
	if d.dryRun == "server" {
		suffix = " (server dry run)"
	}
	if d.format == "name" {
		fmt.Fprintln(d.Out, o.ref())
		return
	}
	fmt.Fprintf(d.Out, "%s %q deleted%s\n", o.Name(), o.name, suffix)
}

// deleteOne asks for a deletion and returns the UID of what is being deleted.
func (d *deleter) deleteOne(ctx context.Context, api *kube.API, o doomed) (string, error) {
	objects := api.Objects(o.Resource, o.namespace)
	live, err := objects.Get(ctx, o.name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	uid := live.GetUID()
	policy := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &policy, Preconditions: &metav1.Preconditions{UID: &uid}}
	if d.dryRun == "server" {
		options.DryRun = []string{metav1.DryRunAll}
	}
	return string(uid), objects.Delete(ctx, o.name, options)
}
