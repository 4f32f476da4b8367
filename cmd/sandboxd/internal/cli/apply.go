package cli

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/printers"

	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/kube"
	"sandboxd.dev/sandboxd/manifest"
)

func (a *app) apply() *cobra.Command {
	p := &applier{app: a}
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIRECTORY|URL|-",
		Short: "Make objects as manifests say",
		Long: `Make objects as manifests say, or change those there are.

Everything is checked before anything is changed: all manifests are parsed, then
the daemon tries all of them without storing anything. Only then are they
applied, namespaces and golden images before sandboxes. Fields that a former
apply set and the manifest no longer has are removed; fields that others set are
left alone, and a conflict over one is refused without --force-conflicts.

With --prune, objects that a former apply made and that no manifest names any
more are deleted. It needs --selector (-l): only sandboxes and golden images with
those labels are pruned, sandboxes in the namespaces of the manifests only, and
never what something else than apply has made. The manifests must carry the
labels themselves.`,
		GroupID: groupObjects,
		Example: examples(`
sandboxd apply -f sandbox.yaml
sandboxd apply -f manifests/ -R --wait
cat sandbox.yaml | sandboxd apply -f -
sandboxd apply -f manifests/ --prune -l app=tests`),
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.run(cmd.Context()) },
	}
	p.files.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&p.dryRun, "dry-run", "none", "Change nothing: client (do not ask the daemon either), server, or none")
	flags.Lookup("dry-run").NoOptDefVal = "server"
	offer(cmd, "dry-run", "client", "server", "none")
	flags.BoolVar(&p.force, "force-conflicts", false, "Take over fields that others have set")
	flags.BoolVar(&p.prune, "prune", false, "Delete what a former apply made and no manifest names any more; needs -l")
	flags.StringVarP(&p.labels, "selector", "l", "", "Labels of what --prune may delete")
	flags.BoolVar(&p.wait, "wait", false, "Wait until everything is as the manifests say")
	flags.DurationVar(&p.timeout, "timeout", 10*time.Minute, "How long to --wait")
	p.output.add(cmd)
	return a.namespaced(cmd)
}

// applier is one run of apply.
type applier struct {
	*app
	files
	output
	dryRun, labels     string
	force, prune, wait bool
	timeout            time.Duration
}

func (p *applier) run(ctx context.Context) error {
	printer, err := p.printer()
	if err != nil {
		return err
	}
	switch {
	case p.dryRun != "none" && p.dryRun != "client" && p.dryRun != "server":
		return fmt.Errorf("--dry-run %q is not one of none, client and server", p.dryRun)
	case p.prune && p.labels == "":
		return errors.New("--prune needs --selector: say by labels what may be deleted")
	case p.wait && p.dryRun != "none":
		return errors.New("--wait and --dry-run exclude one another: a dry run changes nothing that could be waited for")
	}
	if p.dryRun == "client" {
		return p.clientOnly(ctx, printer)
	}
	api, err := p.api()
	if err != nil {
		return err
	}
	targets, err := p.read(ctx, p.app, api)
	if err != nil {
		return err
	}
	trial, err := p.try(ctx, api, targets)
	if err != nil {
		return err
	}
	if p.dryRun == "server" {
		if err := p.report(targets, trial, " (server dry run)", printer); err != nil {
			return err
		}
		return p.pruneOld(ctx, api, targets, true)
	}
	if err := p.applyAll(ctx, api, targets, trial, printer); err != nil {
		return err
	}
	if err := p.pruneOld(ctx, api, targets, false); err != nil {
		return err
	}
	if p.wait {
		return p.waitForTargets(ctx, api, targets, p.timeout)
	}
	return nil
}

// clientOnly checks manifests without a daemon.
func (p *applier) clientOnly(ctx context.Context, printer printers.ResourcePrinter) error {
	if p.prune {
		return errors.New("--prune needs the daemon: use --dry-run=server")
	}
	checked, err := p.validateFiles(ctx, p.files)
	if err != nil {
		return err
	}
	for _, c := range checked {
		if err := p.reportOne(c.target, outcome{object: c.Unstructured, verb: "created"}, " (dry run)", printer); err != nil {
			return err
		}
	}
	return nil
}

// outcome is what applying one object did, or would do.
type outcome struct {
	object *unstructured.Unstructured
	// before is the object as it was; nil when there was none.
	before *unstructured.Unstructured
	verb   string
}

func verbFor(before, after *unstructured.Unstructured) string {
	switch {
	case before == nil:
		return "created"
	case same(before, after):
		return "unchanged"
	default:
		return "configured"
	}
}

// same tells whether two versions of an object differ in what people set.
func same(a, b *unstructured.Unstructured) bool {
	return reflect.DeepEqual(essence(a), essence(b))
}

// essence is an object without what the server keeps about it.
func essence(u *unstructured.Unstructured) map[string]any {
	u = u.DeepCopy()
	for _, field := range []string{"managedFields", "resourceVersion", "generation", "creationTimestamp", "uid"} {
		unstructured.RemoveNestedField(u.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(u.Object, "status")
	return u.Object
}

// explainConflict says what to do about fields that others own.
func explainConflict(err error) error {
	if !apierrors.IsConflict(err) {
		return err
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		if d := status.Status().Details; d != nil {
			for _, c := range d.Causes {
				if c.Type == metav1.CauseTypeFieldManagerConflict {
					return fmt.Errorf("%s of %s: %s%s: leave the field out, or take it over with --force-conflicts",
						c.Field, d.Name, c.Message, more(len(d.Causes)-1, "field", "fields"))
				}
			}
		}
	}
	return err
}

// applyAll applies everything, in order.
func (p *applier) applyAll(ctx context.Context, api *kube.API, targets []target, trial []outcome, printer printers.ResourcePrinter) error {
	before := map[manifest.Identity]*unstructured.Unstructured{}
	for i, o := range targets {
		before[manifest.IdentityOf(o.Object)] = trial[i].before
	}
	for _, group := range manifest.InOrder(targets) {
		done, err := each(ctx, group, func(ctx context.Context, o target) (outcome, error) {
			after, err := api.Apply(ctx, o.Resource, o.Unstructured, p.force, false)
			if err != nil {
				return outcome{}, o.Errorf("%w", explainConflict(err))
			}
			was := before[manifest.IdentityOf(o.Object)]
			verb := verbFor(was, after)
			if was != nil && was.GetUID() != after.GetUID() {
				verb = "created" // it was deleted in between
			}
			return outcome{after, was, verb}, nil
		})
		if reportErr := p.report(group[:len(done)], done, "", printer); reportErr != nil {
			return reportErr
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *applier) report(targets []target, outcomes []outcome, suffix string, printer printers.ResourcePrinter) error {
	for i, o := range outcomes {
		if err := p.reportOne(targets[i], o, suffix, printer); err != nil {
			return err
		}
	}
	return nil
}

// reportOne tells of one. What is being deleted takes a change and goes all the same.
func (p *applier) reportOne(t target, o outcome, suffix string, printer printers.ResourcePrinter) error {
	if o.object.GetDeletionTimestamp() != nil {
		fmt.Fprintf(p.Err, "warning: %s is being deleted: apply it again once it is gone\n", t.Ref(t.GetName()))
	}
	if printer == nil {
		_, err := fmt.Fprintf(p.Out, "%s %s%s\n", t.Ref(t.GetName()), o.verb, suffix)
		return err
	}
	return printer.PrintObj(p.shown(o.object), p.Out)
}
