package apiserver

import (
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// get answers with one object. Whatever resourceVersion the client is content
// with, it gets the newest; one that was never reached is refused.
func (s *Server) get(w http.ResponseWriter, rq *request) error {
	if err := s.checkReached(rq.query.Get("resourceVersion")); err != nil {
		return err
	}
	entry, err := s.store.Get(rq.Context(), rq.key())
	if err != nil {
		return storeError(err, rq.resource.groupResource(), rq.name)
	}
	return s.writeEntry(w, rq, http.StatusOK, entry.Value, entry.Revision)
}

// list answers with a state of a collection, whole or in pages.
func (s *Server) list(w http.ResponseWriter, rq *request) error {
	if err := s.checkReached(rq.query.Get("resourceVersion")); err != nil {
		return err
	}
	sel, err := newSelector(rq.resource, rq.namespace, rq.query)
	if err != nil {
		return err
	}
	o, err := newPageOptions(rq.query, sel)
	if err != nil {
		return err
	}
	p, err := s.selectPage(rq, sel, o)
	if err != nil {
		return err
	}
	return s.writeList(w, rq, p)
}

// selectPage reads one snapshot and picks from it.
func (s *Server) selectPage(rq *request, sel *selector, o pageOptions) (page, error) {
	snapshot, err := s.snapshot(rq, o)
	if err != nil {
		return page{}, err
	}
	return o.cut(snapshot, sel)
}

// checkReached refuses a resource version that the store has not reached.
func (s *Server) checkReached(text string) error {
	wanted, err := queryRevision(text)
	if err != nil {
		return err
	}
	if current := s.store.Revision(); wanted > current {
		return futureError(wanted, current)
	}
	return nil
}

// checkListOptions refuses parameters of lists and watches that do not go
// together, by the rules and in the words of Kubernetes.
func checkListOptions(query url.Values, watch bool) error {
	o := &internalversion.ListOptions{
		Watch: watch, Continue: query.Get("continue"), ResourceVersion: query.Get("resourceVersion"),
		ResourceVersionMatch: metav1.ResourceVersionMatch(query.Get("resourceVersionMatch")),
	}
	if query.Has("sendInitialEvents") {
		initial, err := queryBool(query, "sendInitialEvents")
		if err != nil {
			return err
		}
		o.SendInitialEvents = &initial
	}
	if errs := validation.ValidateListOptions(o, true); len(errs) > 0 {
		return apierrors.NewInvalid(metav1.SchemeGroupVersion.WithKind("ListOptions").GroupKind(), "", errs)
	}
	return nil
}
