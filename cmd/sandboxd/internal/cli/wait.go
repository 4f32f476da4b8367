package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/kube"
)

func (a *app) wait() *cobra.Command {
	var chosen chooser
	var from files
	var condition string
	var timeout time.Duration
	var every bool
	cmd := &cobra.Command{
		Use:   "wait TYPE NAME… | TYPE/NAME… | -f FILE --for=GOAL",
		Short: "Wait until objects meet a goal",
		Long: `Wait until all of the named objects meet a goal: a condition is true or has
another status, a JSONPath finds a value, the object exists, or it is gone. It
fails at once, with the daemon's reason, when an object is stalled: then the goal
will not be met until somebody changes something.`,
		GroupID: groupObjects,
		Example: examples(`
sandboxd wait sandbox/web --for=condition=Ready --timeout=2m
sandboxd wait sbx -l app=tests --for=jsonpath='{.status.phase}'=Stopped
sandboxd wait sandbox/web --for=delete`),
		RunE: func(cmd *cobra.Command, args []string) error {
			if condition == "" {
				return errors.New("say what to wait for, such as --for=condition=Ready or --for=delete")
			}
			target, err := parseGoal(condition)
			if err != nil {
				return err
			}
			api, err := a.api()
			if err != nil {
				return err
			}
			objects, err := a.choose(cmd.Context(), api, args, chosen, from, every, condition == "delete" || condition == "create")
			if err != nil {
				return err
			}
			if len(objects) == 0 && condition != "delete" {
				return errors.New("no object was selected: there is nothing to wait for")
			}
			for i := range objects {
				objects[i].goal = target
			}
			if timeout < 0 {
				timeout = 7 * 24 * time.Hour // as kubectl
			}
			return a.waitFor(cmd.Context(), api, objects, timeout, func(o awaited) {
				fmt.Fprintf(a.Out, "%s condition met\n", o.ref())
			})
		},
	}
	from.add(cmd)
	chosen.add(cmd)
	cmd.Flags().BoolVar(&every, "all", false, "All objects of the type")
	cmd.Flags().StringVar(&condition, "for", "", "What to wait for: condition=NAME[=STATUS], create, delete, jsonpath='{PATH}'[=VALUE]")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "How long to wait; 0 looks once, less than 0 means a week")
	offer(cmd, "for", "condition=", "create", "delete", "jsonpath=")
	cmd.ValidArgsFunction = a.completeObjects
	return a.namespaced(cmd)
}

// choose finds the objects that arguments, selectors or manifests name. Those
// that must exist do, unless absent is allowed.
func (a *app) choose(ctx context.Context, api *kube.API, args []string, chosen chooser, from files, every, absent bool) ([]awaited, error) {
	if len(from.names) > 0 {
		if len(args) > 0 || chosen.labels != "" || every {
			return nil, errors.New("-f and other ways to name objects exclude one another")
		}
		targets, err := from.read(ctx, a, api)
		if err != nil {
			return nil, err
		}
		var all []awaited
		for _, t := range targets {
			all = append(all, awaited{Resource: t.Resource, namespace: t.GetNamespace(), name: t.GetName()})
		}
		return all, nil
	}
	selected, err := parseSelection(args, api.Find)
	if err != nil {
		return nil, err
	}
	if err := chosen.check(selected); err != nil {
		return nil, err
	}
	var all []awaited
	for _, s := range selected {
		switch {
		case len(s.names) > 0:
			named, err := a.named(ctx, api, s, absent)
			if err != nil {
				return nil, err
			}
			all = append(all, named...)
		case chosen.labels == "" && chosen.fields == "" && !every:
			return nil, fmt.Errorf("say which %s: by name, with -l, or --all", s.GroupVersionResource.Resource)
		default:
			listed, err := a.list(ctx, api, s, chosen)
			if err != nil {
				return nil, err
			}
			for _, u := range listed {
				all = append(all, awaited{Resource: s.Resource, namespace: u.GetNamespace(), name: u.GetName()})
			}
		}
	}
	return all, nil
}

func (a *app) named(ctx context.Context, api *kube.API, s selection, absent bool) ([]awaited, error) {
	namespace := ""
	if s.Namespaced {
		namespace = a.namespaceOr()
	}
	var all []awaited
	for _, name := range s.names {
		if !absent {
			_, err := api.Objects(s.Resource, namespace).Get(ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil, err
			}
		}
		all = append(all, awaited{Resource: s.Resource, namespace: namespace, name: name})
	}
	return all, nil
}

// list lists what selectors choose.
func (a *app) list(ctx context.Context, api *kube.API, s selection, chosen chooser) ([]unstructured.Unstructured, error) {
	q := chosen.query(s, a.namespaceOr(), "")
	list, err := api.Objects(s.Resource, q.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: q.LabelSelector, FieldSelector: q.FieldSelector,
	})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}
