package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/duration"

	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/kube"
)

func (a *app) describe() *cobra.Command {
	var chosen chooser
	cmd := &cobra.Command{
		Use:     "describe TYPE [NAME…] | TYPE/NAME…",
		Short:   "Show objects in detail, with their events",
		GroupID: groupObjects,
		Example: examples(`sandboxd describe sandbox web`),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.describeAll(cmd.Context(), args, chosen)
		},
	}
	chosen.add(cmd)
	cmd.ValidArgsFunction = a.completeObjects
	return a.namespaced(cmd)
}

func (a *app) describeAll(ctx context.Context, args []string, chosen chooser) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	selected, err := parseSelection(args, api.Find)
	if err != nil {
		return err
	}
	if err := chosen.check(selected); err != nil {
		return err
	}
	printed := 0
	for _, s := range selected {
		objects, err := a.selected(ctx, api, s, chosen)
		if err != nil {
			return err
		}
		for _, u := range objects {
			if printed++; printed > 1 {
				fmt.Fprint(a.Out, "\n\n")
			}
			events, err := eventsAbout(ctx, api, u)
			if err != nil {
				return err
			}
			if err := describe(a.Out, u, events, time.Now()); err != nil {
				return err
			}
		}
	}
	if printed == 0 {
		fmt.Fprintln(a.Err, "No resources found")
	}
	return nil
}

// selected reads what a selection names.
func (a *app) selected(ctx context.Context, api *kube.API, s selection, chosen chooser) ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	if len(s.names) == 0 {
		list, err := a.list(ctx, api, s, chosen)
		for i := range list {
			all = append(all, &list[i])
		}
		return all, err
	}
	q := chosen.query(s, a.namespaceOr(), "")
	for _, name := range s.names {
		u, err := api.Objects(s.Resource, q.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return all, err
		}
		all = append(all, u)
	}
	return all, nil
}

// describe prints an object: what it is, what is asked of it, what was
// observed, and what happened.
func describe(out io.Writer, u *unstructured.Unstructured, events []corev1.Event, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	line := func(format string, args ...any) { fmt.Fprintln(w, printableTabs(fmt.Sprintf(format, args...))) }
	line("Name:\t%s", u.GetName())
	if ns := u.GetNamespace(); ns != "" {
		line("Namespace:\t%s", ns)
	}
	line("Kind:\t%s (%s)", u.GetKind(), u.GetAPIVersion())
	line("Labels:\t%s", pairs(u.GetLabels()))
	line("Annotations:\t%s", pairs(u.GetAnnotations()))
	line("Created:\t%s ago (%s)", duration.HumanDuration(now.Sub(u.GetCreationTimestamp().Time)), u.GetCreationTimestamp().UTC().Format(time.RFC3339))
	if t := u.GetDeletionTimestamp(); t != nil {
		line("Deleting:\tsince %s", duration.HumanDuration(now.Sub(t.Time)))
	}
	line("UID:\t%s", u.GetUID())
	for _, part := range slices.Sorted(maps.Keys(u.Object)) {
		switch part {
		case "apiVersion", "kind", "metadata":
			continue
		}
		value := u.Object[part]
		if m, ok := value.(map[string]any); ok && part == "status" {
			m = maps.Clone(m)
			delete(m, "conditions")
			value = m
		}
		outline(line, "", part, value)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := describeConditions(out, conditionsOf(u), now); err != nil {
		return err
	}
	return describeEvents(out, events, now)
}

// outline prints a value below its name.
func outline(line func(string, ...any), indent, name string, value any) {
	switch v := value.(type) {
	case map[string]any:
		if len(v) == 0 {
			return
		}
		line("%s%s:\t", indent, title(name))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			outline(line, indent+"  ", key, v[key])
		}
	case []any:
		for i, item := range v {
			if _, ok := item.(map[string]any); ok {
				outline(line, indent, fmt.Sprintf("%s %d", name, i+1), item)
			} else {
				outline(line, indent, fmt.Sprintf("%s %d", name, i+1), fmt.Sprint(item))
			}
		}
	case string:
		first, rest, several := strings.Cut(strings.TrimRight(v, "\n"), "\n")
		line("%s%s:\t%s", indent, title(name), first)
		for several {
			first, rest, several = strings.Cut(rest, "\n")
			line("%s\t%s", indent, first)
		}
	default:
		line("%s%s:\t%v", indent, title(name), v)
	}
}

// title makes words of a field's name: powerState becomes Power State.
func title(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, c := range runes {
		switch {
		case i == 0:
			c = unicode.ToUpper(c)
		case unicode.IsUpper(c) && (!unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])):
			b.WriteByte(' ')
		}
		b.WriteRune(c)
	}
	return b.String()
}

// pairs prints labels in order.
func pairs(m map[string]string) string {
	if len(m) == 0 {
		return "<none>"
	}
	var all []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		all = append(all, key+"="+m[key])
	}
	return strings.Join(all, ", ")
}

// printableTabs is printable for lines with tabulators.
func printableTabs(text string) string {
	parts := strings.Split(text, "\t")
	for i, p := range parts {
		parts[i] = printable(p)
	}
	return strings.Join(parts, "\t")
}

func describeConditions(out io.Writer, conditions []metav1.Condition, now time.Time) error {
	if len(conditions) == 0 {
		return nil
	}
	fmt.Fprintln(out, "Conditions:")
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "  TYPE\tSTATUS\tSINCE\tREASON\tMESSAGE")
	for _, c := range conditions {
		fmt.Fprintln(w, printableTabs(fmt.Sprintf("  %s\t%s\t%s\t%s\t%s", c.Type, c.Status,
			duration.HumanDuration(now.Sub(c.LastTransitionTime.Time)), c.Reason, strings.ReplaceAll(c.Message, "\t", " "))))
	}
	return w.Flush()
}

func describeEvents(out io.Writer, events []corev1.Event, now time.Time) error {
	if len(events) == 0 {
		fmt.Fprintln(out, "Events:  <none>")
		return nil
	}
	fmt.Fprintln(out, "Events:")
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "  LAST SEEN\tTYPE\tREASON\tMESSAGE")
	for _, e := range events {
		fmt.Fprintln(w, printableTabs(fmt.Sprintf("  %s\t%s\t%s\t%s", eventAge(e, now), e.Type, e.Reason, strings.ReplaceAll(e.Message, "\t", " "))))
	}
	return w.Flush()
}
