package apiserver

import (
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sandboxd.dev/sandboxd/store"
)

// Operation is what a write does to an object.
type Operation string

// The operations that admission sees.
const (
	Create Operation = "CREATE"
	Update Operation = "UPDATE"
	Delete Operation = "DELETE"
)

// User is who makes a request.
type User struct {
	// Name is an account name of the host, a number when the host knows no
	// name for it, or a name that begins with "system:".
	Name string
	// Groups the user is a member of; may be empty.
	Groups []string
}

// Attributes describe a write that is about to be made.
type Attributes struct {
	Operation   Operation
	Resource    schema.GroupVersionResource
	Subresource string // "status", or empty
	Namespace   string // empty for cluster-scoped objects
	Name        string
	// Object as it would be stored; nil for a deletion. Read only.
	Object *unstructured.Unstructured
	// OldObject as it is stored; nil for a creation. Read only.
	OldObject *unstructured.Unstructured
	// DryRun: nothing will be stored.
	DryRun bool
	User   User
	// Authorize refuses, as a request is, what the user may not do.
	Authorize func(context.Context, Action) error
	// Reader reads other objects, straight from the store.
	Reader Reader
}

// Admission decides whether a write may be made. It runs after defaulting and
// validation, for dry runs too, and possibly more than once for one request
// when other writers come between. It changes nothing.
//
// A returned Status error (package k8s.io/apimachinery/pkg/api/errors) is
// answered as it is; any other error is answered as 403 Forbidden with its
// text.
type Admission interface {
	Admit(ctx context.Context, a Attributes) error
}

// Reader reads objects without going through HTTP. Reads see every write that
// was acknowledged before. Errors are Status errors. The objects are the
// caller's own.
type Reader interface {
	// Get returns an object, or a NotFound error.
	Get(ctx context.Context, resource schema.GroupResource, namespace, name string) (*unstructured.Unstructured, error)
	// List returns the objects of a namespace, or of all when it is empty.
	List(ctx context.Context, resource schema.GroupResource, namespace string) ([]*unstructured.Unstructured, error)
}

// admit asks every hook in order; the first refusal counts.
func (s *Server) admit(ctx context.Context, a Attributes) error {
	if a.DryRun {
		Annotate(ctx, "dry-run", metav1.DryRunAll)
	}
	a.Reader = reader{s}
	a.Authorize = func(ctx context.Context, action Action) error { return s.authorize(ctx, a.User, action) }
	for _, hook := range s.admission {
		if err := hook.Admit(ctx, a); err != nil {
			var status apierrors.APIStatus
			if errors.As(err, &status) {
				return err
			}
			return apierrors.NewForbidden(a.Resource.GroupResource(), a.Name, err)
		}
	}
	return nil
}

// reader is the Reader that admission gets.
type reader struct{ s *Server }

func (r reader) Get(ctx context.Context, gr schema.GroupResource, namespace, name string) (*unstructured.Unstructured, error) {
	res := r.s.registry.find(gr)
	if res == nil {
		return nil, apierrors.NewNotFound(gr, name)
	}
	entry, err := r.s.store.Get(ctx, store.Key{Resource: res.base().key, Namespace: namespace, Name: name})
	if err != nil {
		return nil, storeError(err, gr, name)
	}
	return res.decode(entry.Value, entry.Revision)
}

func (r reader) List(ctx context.Context, gr schema.GroupResource, namespace string) ([]*unstructured.Unstructured, error) {
	res := r.s.registry.find(gr)
	if res == nil {
		return nil, apierrors.NewNotFound(gr, "")
	}
	snapshot, err := r.s.store.List(ctx, res.base().key, namespace)
	if err != nil {
		return nil, storeError(err, gr, "")
	}
	objects := make([]*unstructured.Unstructured, 0, len(snapshot.Entries))
	for _, e := range snapshot.Entries {
		u, err := res.decode(e.Value, e.Revision)
		if err != nil {
			return nil, err
		}
		objects = append(objects, u)
	}
	return objects, nil
}
