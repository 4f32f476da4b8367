package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/watch"

	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/kube"
)

func (a *app) events() *cobra.Command {
	var about string
	var follow bool
	var chosen chooser
	var types []string
	cmd := &cobra.Command{
		Use:     "events",
		Short:   "Show what happened",
		Long:    "Show the events of the namespace, the oldest first. Events are kept for an hour.",
		GroupID: groupObjects,
		Example: examples(`
sandboxd events
sandboxd events --for sandbox/web -w
sandboxd events -A --types Warning`),
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l := &eventLister{app: a, all: chosen.all, types: types}
			return l.run(cmd.Context(), about, follow)
		},
	}
	cmd.Flags().StringVar(&about, "for", "", "Only events about this object, as TYPE/NAME")
	cmd.Flags().BoolVarP(&follow, "watch", "w", false, "After showing the events, show new ones")
	cmd.Flags().BoolVarP(&chosen.all, "all-namespaces", "A", false, "Events of all namespaces")
	cmd.Flags().StringSliceVar(&types, "types", nil, "Only events of these types: Normal, Warning")
	offer(cmd, "types", "Normal", "Warning")
	_ = cmd.RegisterFlagCompletionFunc("for", a.completeObjects)
	return a.namespaced(cmd)
}

// eventLister is one run of events.
type eventLister struct {
	*app
	all     bool
	types   []string
	fields  string
	headers bool // were printed
}

func (l *eventLister) run(ctx context.Context, about string, follow bool) error {
	for _, t := range l.types {
		if t != corev1.EventTypeNormal && t != corev1.EventTypeWarning {
			return fmt.Errorf("--types %q is not one of Normal and Warning", t)
		}
	}
	api, err := l.api()
	if err != nil {
		return err
	}
	namespace := l.namespaceOr()
	if about != "" {
		if !strings.Contains(about, "/") {
			return fmt.Errorf("--for %q is not of the form TYPE/NAME, such as sandbox/web", about)
		}
		selected, err := parseSelection([]string{about}, api.Find)
		if err != nil {
			return err
		}
		if len(selected) != 1 || len(selected[0].names) != 1 {
			return fmt.Errorf("--for %q is not of the form TYPE/NAME", about)
		}
		l.fields = fmt.Sprintf("involvedObject.kind=%s,involvedObject.name=%s", selected[0].Kind.Kind, selected[0].names[0])
		if !selected[0].Namespaced {
			namespace = metav1.NamespaceDefault // where events of the cluster are kept
		}
	}
	if l.all {
		namespace = ""
	}
	r, err := api.OfKind(corev1.SchemeGroupVersion.WithKind("Event"))
	if err != nil {
		return err
	}
	objects := api.Objects(r, namespace)
	options := metav1.ListOptions{FieldSelector: l.fields}
	list, err := objects.List(ctx, options)
	if err != nil {
		return err
	}
	events := l.wanted(decodeEvents(list))
	if len(events) == 0 && !follow {
		fmt.Fprintln(l.Err, "No events found")
		return nil
	}
	if err := l.print(events); err != nil || !follow {
		return err
	}
	options.ResourceVersion = list.GetResourceVersion()
	return l.follow(ctx, objects.Watch, options)
}

// follow prints events as they come.
func (l *eventLister) follow(ctx context.Context, open watchFunc, o metav1.ListOptions) error {
	for {
		w, err := open(ctx, o)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		for e := range w.ResultChan() {
			u, ok := e.Object.(*unstructured.Unstructured)
			if !ok || e.Type == watch.Error {
				break
			}
			o.ResourceVersion = u.GetResourceVersion()
			if e.Type != watch.Added && e.Type != watch.Modified {
				continue
			}
			events := l.wanted(decodeEvents(&unstructured.UnstructuredList{Items: []unstructured.Unstructured{*u}}))
			if err := l.print(events); err != nil {
				w.Stop()
				return err
			}
		}
		w.Stop()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rewatchDelay):
		}
	}
}

func (l *eventLister) wanted(events []corev1.Event) []corev1.Event {
	if len(l.types) == 0 {
		return events
	}
	return slices.DeleteFunc(events, func(e corev1.Event) bool { return !slices.Contains(l.types, e.Type) })
}

func (l *eventLister) print(events []corev1.Event) error {
	if len(events) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(l.Out, 10, 8, 2, ' ', 0)
	space := func(ns string) string {
		if !l.all {
			return ""
		}
		return ns + "\t"
	}
	if !l.headers {
		fmt.Fprintf(w, "%sLAST SEEN\tTYPE\tREASON\tOBJECT\tMESSAGE\n", space("NAMESPACE"))
		l.headers = true
	}
	now := time.Now()
	for _, e := range events {
		fmt.Fprintln(w, printableTabs(fmt.Sprintf("%s%s\t%s\t%s\t%s/%s\t%s", space(e.Namespace), eventAge(e, now), e.Type, e.Reason,
			e.InvolvedObject.Kind, e.InvolvedObject.Name, strings.ReplaceAll(e.Message, "\t", " "))))
	}
	return w.Flush()
}

// eventsAbout returns the events about an object, the oldest first.
func eventsAbout(ctx context.Context, api *kube.API, u *unstructured.Unstructured) ([]corev1.Event, error) {
	r, err := api.OfKind(corev1.SchemeGroupVersion.WithKind("Event"))
	if err != nil {
		return nil, err
	}
	namespace := u.GetNamespace()
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	list, err := api.Objects(r, namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fmt.Sprintf("involvedObject.kind=%s,involvedObject.name=%s", u.GetKind(), u.GetName()),
	})
	if err != nil {
		return nil, err
	}
	events := decodeEvents(list)
	// An object of that name that was deleted before is another one.
	return slices.DeleteFunc(events, func(e corev1.Event) bool {
		return e.InvolvedObject.UID != "" && e.InvolvedObject.UID != u.GetUID()
	}), nil
}

// decodeEvents reads events, the oldest first.
func decodeEvents(list *unstructured.UnstructuredList) []corev1.Event {
	var events []corev1.Event
	for _, u := range list.Items {
		var e corev1.Event
		if runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &e) == nil {
			events = append(events, e)
		}
	}
	slices.SortStableFunc(events, func(a, b corev1.Event) int { return lastSeen(a).Compare(lastSeen(b)) })
	return events
}

// lastSeen is when an event happened last.
func lastSeen(e corev1.Event) time.Time {
	switch {
	case e.Series != nil && !e.Series.LastObservedTime.IsZero():
		return e.Series.LastObservedTime.Time
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp.Time
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	default:
		return e.CreationTimestamp.Time
	}
}

// eventAge says when an event happened last, and how often it did.
func eventAge(e corev1.Event, now time.Time) string {
	age := duration.HumanDuration(now.Sub(lastSeen(e)))
	count := e.Count
	if e.Series != nil {
		count = e.Series.Count
	}
	if count > 1 {
		return fmt.Sprintf("%s (x%d)", age, count)
	}
	return age
}
