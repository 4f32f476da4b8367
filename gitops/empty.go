package gitops

import (
	"context"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"sandboxd.dev/sandboxd/manifest"
)

// heldError: a namespace is not deleted while there is something in it, which would
// go with it and may be anybody's.
type heldError struct {
	id    manifest.Identity
	count int
	kind  string
}

func (e heldError) Error() string {
	return fmt.Sprintf("%s is deleted once it is empty: it holds %d of kind %s", name(e.id), e.count, e.kind)
}

// empty returns a heldError when there is something in a namespace, of whatever kind.
func (s *Source) empty(ctx context.Context, l Live) error {
	if k, _ := kindOf(l.Kind); k.Kind != "Namespace" {
		return nil
	}
	lists, err := s.served.ServerPreferredNamespacedResources()
	if err != nil {
		return fmt.Errorf("what it holds is not known: %w", err)
	}
	inside, err := contents(lists)
	if err != nil {
		return err
	}
	for _, k := range inside {
		list, err := s.partial.Resource(k.gvr()).Namespace(l.Name).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if n := len(list.Items); n > 0 {
			return heldError{l.Identity, n, k.Kind}
		}
	}
	return nil
}

// views are what nobody makes, or misses: what happened, and other sights of what is
// looked at anyway.
var views = []schema.GroupResource{
	{Resource: "events"},
	{Group: "events.k8s.io", Resource: "events"},
	{Resource: "pods"},
	{Resource: "services"},
}

// contents are the kinds of what can be in a namespace, ours first: they are what is
// told.
func contents(lists []*metav1.APIResourceList) ([]kind, error) {
	all := slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool { return !k.namespaced })
	listed := discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list"}}, lists)
	for _, list := range listed {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, r := range list.APIResources {
			k := kind{version.WithKind(r.Kind), r.Name, r.Namespaced}
			if _, ours := kindOf(k.GroupKind()); ours || !r.Namespaced || strings.Contains(r.Name, "/") || slices.Contains(views, k.gvr().GroupResource()) {
				continue
			}
			all = append(all, k)
		}
	}
	return all, nil
}
