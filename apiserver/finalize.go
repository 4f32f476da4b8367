package apiserver

import (
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// serveFinalize writes what holds an object back from its deletion besides its
// metadata, as PUT /api/v1/namespaces/NAME/finalize does.
func (s *Server) serveFinalize(w http.ResponseWriter, rq *request) error {
	if rq.Method != http.MethodPut {
		return methodNotAllowed(rq.Method, rq.URL.Path)
	}
	o, err := rq.writeOptions()
	if err != nil {
		return err
	}
	u, err := s.readObject(w, rq, o)
	if err != nil {
		return err
	}
	if err := checkIdentity(rq, u); err != nil {
		return err
	}
	value, revision, err := s.modify(rq, o, func(old *unstructured.Unstructured) (*unstructured.Unstructured, error) {
		if err := checkVersion(rq, u, old); err != nil {
			return nil, err
		}
		return rq.resource.finalize(s, rq, u, old.DeepCopy())
	}, o.managerOr(rq.Request))
	if err != nil {
		return err
	}
	return s.writeEntry(w, rq, http.StatusOK, value, revision)
}

// finalizeNamespace gives a namespace the finalizers that somebody asks for.
// That of the server itself can be taken away only when nothing is left inside:
// people use this to be rid of a namespace that hangs, and what is inside would
// be lost sight of, with machines that run.
func finalizeNamespace(s *Server, rq *request, u, old *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	wanted, _, _ := unstructured.NestedStringSlice(u.Object, "spec", "finalizers")
	if !heldByServer(u) && heldByServer(old) {
		if old.GetDeletionTimestamp() == nil {
			return nil, apierrors.NewConflict(rq.resource.groupResource(), rq.name, fmt.Errorf(
				"the finalizer %s stays until the namespace is deleted", corev1.FinalizerKubernetes))
		}
		s.namespaces.settle() // nothing new gets in from here on
		for _, r := range s.namespaces.contents() {
			snapshot, err := s.store.List(rq.Context(), r.key, rq.name)
			if err != nil {
				return nil, err
			}
			if n := len(snapshot.Entries); n > 0 {
				return nil, apierrors.NewConflict(rq.resource.groupResource(), rq.name, fmt.Errorf(
					"the finalizer %s stays while there are objects inside, such as %d %s: see what holds them back", corev1.FinalizerKubernetes, n, r.groupResource()))
			}
		}
	}
	if len(wanted) == 0 {
		unstructured.RemoveNestedField(old.Object, "spec", "finalizers")
		return old, nil
	}
	return old, unstructured.SetNestedStringSlice(old.Object, wanted, "spec", "finalizers")
}
