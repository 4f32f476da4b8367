package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sandboxd.dev/sandboxd/store"
)

// bootstrap puts into the store what every server has: the default namespace,
// and the definitions for clients to read.
func (s *Server) bootstrap(ctx context.Context, definitions []*apiextensionsv1.CustomResourceDefinition) error {
	namespace := map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": metav1.NamespaceDefault},
	}
	if err := s.ensure(ctx, corev1.Resource("namespaces"), namespace); err != nil {
		return err
	}
	if err := s.bootstrapRoles(ctx); err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, crd := range definitions {
		wanted[crd.Name] = true
		if err := s.publish(ctx, crd); err != nil {
			return fmt.Errorf("%s: %w", crd.Name, err)
		}
	}
	return s.forgetDefinitions(ctx, wanted)
}

// publish stores a definition. Objects are served as they are stored, so when
// the definition is not the one that they were stored under, they are brought
// in line with it first.
func (s *Server) publish(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) error {
	obj, err := publishedDefinition(crd, formatTime(s.clock.Now()))
	if err != nil {
		return err
	}
	entry, err := s.store.Get(ctx, store.Key{Resource: definitionsKey, Name: crd.Name})
	if err == nil {
		stored, err := decodeStored(entry.Value, entry.Revision)
		if err != nil {
			return err
		}
		if reflect.DeepEqual(stored.Object["spec"], obj["spec"]) {
			return nil
		}
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	r := s.registry.find(schema.GroupResource{Group: crd.Spec.Group, Resource: crd.Spec.Names.Plural})
	if err := s.conform(ctx, r); err != nil {
		return err
	}
	return s.ensure(ctx, apiextensionsv1.Resource("customresourcedefinitions"), obj)
}

// conform brings the stored objects of a resource in line with its schema: it
// drops what the schema no longer knows and fills in what it newly defaults.
func (s *Server) conform(ctx context.Context, r *resource) error {
	snapshot, err := s.store.List(ctx, r.key, "")
	if err != nil {
		return err
	}
	for _, entry := range snapshot.Entries {
		u, err := decodeStored(entry.Value, 0)
		if err != nil {
			return fmt.Errorf("%s: %w", entry.Key, err)
		}
		if _, err := r.schema.coerce(u.Object, metadataOf(u.Object)); err != nil {
			return fmt.Errorf("%s: %w", entry.Key, err)
		}
		r.schema.applyDefaults(u.Object)
		value, err := encodeStored(u.Object)
		if err != nil {
			return fmt.Errorf("%s: %w", entry.Key, err)
		}
		if bytes.Equal(value, entry.Value) {
			continue
		}
		if _, err := s.store.Put(ctx, entry.Key, value, entry.Revision); err != nil {
			return err
		}
	}
	return nil
}

// publishedDefinition is a definition as clients read it: in force.
func publishedDefinition(crd *apiextensionsv1.CustomResourceDefinition, now string) (map[string]any, error) {
	raw, err := json.Marshal(crd)
	if err != nil {
		return nil, err
	}
	obj, _, err := parseJSON(raw)
	if err != nil {
		return nil, err
	}
	condition := func(kind, reason, message string) any {
		return map[string]any{"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now}
	}
	names := obj["spec"].(map[string]any)["names"]
	obj["status"] = map[string]any{
		"acceptedNames":  names,
		"storedVersions": []any{crd.Spec.Versions[0].Name},
		"conditions": []any{
			condition("NamesAccepted", "NoConflicts", "no conflicts found"),
			condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
		},
	}
	return obj, nil
}

// ensure stores an object unless it is there with the same spec.
func (s *Server) ensure(ctx context.Context, gr schema.GroupResource, obj map[string]any) error {
	raw, err := http.NewRequestWithContext(ctx, http.MethodPost, "/", nil)
	if err != nil {
		return err
	}
	u := &unstructured.Unstructured{Object: obj}
	rq := &request{Request: raw, resource: s.registry.find(gr), name: u.GetName(), user: loopbackUser}
	_, _, err = s.insert(rq, u.DeepCopy(), options{}, "sandboxd")
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	_, _, err = s.modify(rq, options{}, func(old *unstructured.Unstructured) (*unstructured.Unstructured, error) {
		changed := old.DeepCopy()
		if spec, ok := obj["spec"]; ok {
			changed.Object["spec"] = spec
		}
		return changed, nil
	}, "sandboxd")
	return err
}

// forgetDefinitions removes the definitions of kinds that are no longer served.
func (s *Server) forgetDefinitions(ctx context.Context, wanted map[string]bool) error {
	snapshot, err := s.store.List(ctx, definitionsKey, "")
	if err != nil {
		return err
	}
	for _, entry := range snapshot.Entries {
		if wanted[entry.Key.Name] {
			continue
		}
		if _, err := s.store.Delete(ctx, entry.Key, store.AnyRevision); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return nil
}
