package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/printers"

	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/kube"
)

func (a *app) get() *cobra.Command {
	g := &getter{app: a}
	cmd := &cobra.Command{
		Use:     "get TYPE [NAME…] | TYPE/NAME…",
		Short:   "Show objects",
		Long:    "Show objects in a table, or as the manifests they are. The type \"sandboxd\" stands for sandboxes and golden images.",
		GroupID: groupObjects,
		Example: examples(`
# All sandboxes of the namespace, then of all namespaces with more columns
sandboxd get sandboxes
sandboxd get sbx -A -o wide

# Watch them
sandboxd get sbx -w

# One value
sandboxd get sandbox web -o jsonpath='{.status.addresses[0].ip}'`),
		RunE: func(cmd *cobra.Command, args []string) error { return g.run(cmd.Context(), args) },
	}
	g.chooser.add(cmd)
	g.addIgnore(cmd)
	g.output.add(cmd)
	cmd.Flags().BoolVarP(&g.watch, "watch", "w", false, "After showing the objects, show their changes")
	cmd.Flags().BoolVar(&g.watchOnly, "watch-only", false, "Show changes only")
	cmd.Flags().BoolVar(&g.noHeaders, "no-headers", false, "Leave out the table's headers")
	cmd.Flags().BoolVar(&g.showLabels, "show-labels", false, "Show labels as the last column")
	cmd.ValidArgsFunction = a.completeObjects
	return a.namespaced(cmd)
}

// getter is one run of get.
type getter struct {
	*app
	chooser
	output
	watch, watchOnly, noHeaders, showLabels bool
}

func (g *getter) run(ctx context.Context, args []string) error {
	printer, err := g.printer()
	if err != nil {
		return err
	}
	api, err := g.api()
	if err != nil {
		return err
	}
	selected, err := parseSelection(args, api.Find)
	if err != nil {
		return err
	}
	if err := g.check(selected); err != nil {
		return err
	}
	switch {
	case g.watch || g.watchOnly:
		return g.follow(ctx, api, selected, printer)
	case printer == nil:
		return g.tables(ctx, api, selected)
	default:
		return g.objects(ctx, api, selected, printer)
	}
}

// fetch returns the tables of what was selected, one for each type.
func (g *getter) fetch(ctx context.Context, api *kube.API, s selection) ([]*metav1.Table, error) {
	if len(s.names) == 0 {
		t, err := api.Table(ctx, s.Resource, g.query(s, g.namespaceOr(), ""))
		return []*metav1.Table{t}, err
	}
	var all []*metav1.Table
	var errs []error
	for _, name := range s.names {
		t, err := api.Table(ctx, s.Resource, g.query(s, g.namespaceOr(), name))
		switch {
		case err == nil:
			all = append(all, t)
		case apierrors.IsNotFound(err) && g.ignoreMissing:
		default:
			errs = append(errs, err)
		}
	}
	return all, firstOf(errs)
}

// tables prints what was selected as the server renders it.
func (g *getter) tables(ctx context.Context, api *kube.API, selected []selection) error {
	var errs []error
	rows, printed := 0, 0
	for _, s := range selected {
		tables, err := g.fetch(ctx, api, s)
		errs = append(errs, err)
		merged := merge(tables)
		if merged == nil || len(merged.Rows) == 0 {
			continue
		}
		rows += len(merged.Rows)
		if printed++; printed > 1 {
			fmt.Fprintln(g.Out)
		}
		if err := g.table(s, len(selected) > 1, g.noHeaders).PrintObj(merged, g.Out); err != nil {
			return err
		}
	}
	if err := firstOf(errs); err != nil {
		return err
	}
	if rows == 0 && !g.ignoreMissing {
		g.nothing(selected)
	}
	return nil
}

// firstOf returns the first error, and says how many followed it.
func firstOf(errs []error) error {
	var first error
	n := 0
	for _, err := range errs {
		if err == nil {
			continue
		}
		if n++; first == nil {
			first = err
		}
	}
	if n > 1 {
		return fmt.Errorf("%w%s", first, more(n-1, "error", "errors"))
	}
	return first
}

// nothing says that there is nothing to show.
func (g *getter) nothing(selected []selection) {
	for _, s := range selected {
		if s.Namespaced && !g.all {
			fmt.Fprintf(g.Err, "No resources found in %s namespace.\n", g.namespaceOr())
			return
		}
	}
	fmt.Fprintln(g.Err, "No resources found")
}

// merge makes one table of those of several objects.
func merge(tables []*metav1.Table) *metav1.Table {
	var merged *metav1.Table
	for _, t := range tables {
		switch {
		case t == nil:
		case merged == nil:
			merged = t
		default:
			merged.Rows = append(merged.Rows, t.Rows...)
		}
	}
	return merged
}

// table makes a printer of tables.
func (g *getter) table(s selection, withKind, noHeaders bool) printers.ResourcePrinter {
	return printers.NewTablePrinter(printers.PrintOptions{
		NoHeaders: noHeaders, Wide: g.format == "wide", ShowLabels: g.showLabels,
		WithNamespace: s.Namespaced && g.all, WithKind: withKind, Kind: s.Kind.GroupKind(),
	})
}

// objects prints what was selected as manifests.
func (g *getter) objects(ctx context.Context, api *kube.API, selected []selection, printer printers.ResourcePrinter) error {
	var found []*unstructured.Unstructured
	single := len(selected) == 1 && len(selected[0].names) == 1
	var errs []error
	for _, s := range selected {
		tables, err := g.fetch(ctx, api, s)
		errs = append(errs, err)
		for _, t := range tables {
			if t == nil {
				continue
			}
			for _, row := range t.Rows {
				if u, ok := row.Object.Object.(*unstructured.Unstructured); ok {
					found = append(found, g.shown(u))
				}
			}
		}
	}
	if err := g.print(found, single, printer); err != nil {
		return err
	}
	return firstOf(errs)
}

// print prints one object as it is, and several as a list.
func (g *getter) print(found []*unstructured.Unstructured, single bool, printer printers.ResourcePrinter) error {
	if g.format == "name" || single {
		for _, u := range found {
			if err := printer.PrintObj(u, g.Out); err != nil {
				return err
			}
		}
		return nil
	}
	list := &unstructured.UnstructuredList{Object: map[string]any{"apiVersion": "v1", "kind": "List", "metadata": map[string]any{}}}
	for _, u := range found {
		list.Items = append(list.Items, *u)
	}
	return printer.PrintObj(list, g.Out)
}

// rewatchDelay is how long a watch that the server ended waits before it goes
// on.
const rewatchDelay = 200 * time.Millisecond

// follow prints objects and their changes until the context ends.
func (g *getter) follow(ctx context.Context, api *kube.API, selected []selection, printer printers.ResourcePrinter) error {
	if len(selected) != 1 || len(selected[0].names) > 1 {
		return errors.New("one type can be watched at a time, with one name or all")
	}
	s := selected[0]
	name := ""
	if len(s.names) == 1 {
		name = s.names[0]
	}
	q := g.query(s, g.namespaceOr(), name)
	f := &follower{getter: g, s: s, printer: printer}
	first, err := api.Table(ctx, s.Resource, q)
	if err != nil && (!apierrors.IsNotFound(err) || !g.ignoreMissing) {
		return err
	}
	version := "0"
	if first != nil {
		version = first.ResourceVersion
		if !g.watchOnly {
			if err := f.show(first); err != nil {
				return err
			}
		}
	}
	for {
		err := api.WatchTable(ctx, s.Resource, q, version, func(t *metav1.Table) error {
			if t.ResourceVersion != "" {
				version = t.ResourceVersion
			}
			return f.show(t)
		})
		switch {
		case ctx.Err() != nil:
			return nil // the user has seen enough
		case apierrors.IsResourceExpired(err) || apierrors.IsGone(err):
			// The daemon was restarted, or so much happened that it lost count.
			again, err := api.Table(ctx, s.Resource, q)
			if err != nil {
				return err
			}
			if version = again.ResourceVersion; len(again.Rows) > 0 {
				if err := f.show(again); err != nil {
					return err
				}
			}
		case err != nil && !errors.Is(err, io.EOF):
			return err
		}
		time.Sleep(rewatchDelay)
	}
}

// follower prints tables one after the other as if they were one.
type follower struct {
	*getter
	s       selection
	printer printers.ResourcePrinter
	defs    []metav1.TableColumnDefinition
	tables  printers.ResourcePrinter
}

// columns gives a table the columns of the first one: the server names them
// once.
func (f *follower) columns(t *metav1.Table) {
	if len(t.ColumnDefinitions) > 0 {
		f.defs = t.ColumnDefinitions
	} else {
		t.ColumnDefinitions = f.defs
	}
}

func (f *follower) show(t *metav1.Table) error {
	f.columns(t)
	if f.printer == nil {
		if f.tables == nil {
			f.tables = f.table(f.s, false, f.noHeaders)
		} else {
			f.tables = f.table(f.s, false, true)
		}
		return f.tables.PrintObj(t, f.Out)
	}
	for _, row := range t.Rows {
		if u, ok := row.Object.Object.(*unstructured.Unstructured); ok {
			if err := f.printer.PrintObj(f.shown(u), f.Out); err != nil {
				return err
			}
		}
	}
	return nil
}
