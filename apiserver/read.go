package apiserver

import (
	"fmt"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sandboxd.dev/sandboxd/store"
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

// list answers with the newest snapshot of a collection. It is never cut into
// pages: limit is allowed to be ignored.
func (s *Server) list(w http.ResponseWriter, rq *request) error {
	if err := s.checkListVersion(rq.query); err != nil {
		return err
	}
	sel, err := newSelector(rq.resource, rq.namespace, rq.query)
	if err != nil {
		return err
	}
	entries, revision, err := s.selectEntries(rq, sel)
	if err != nil {
		return err
	}
	return s.writeList(w, rq, entries, revision)
}

// selectEntries reads one snapshot and picks from it.
func (s *Server) selectEntries(rq *request, sel *selector) ([]store.Entry, int64, error) {
	snapshot, err := s.store.List(rq.Context(), rq.resource.base().key, rq.namespace)
	if err != nil {
		return nil, 0, storeError(err, rq.resource.groupResource(), "")
	}
	entries := snapshot.Entries[:0] // it is ours
	for _, e := range snapshot.Entries {
		ok, _, err := sel.matches(e.Key, e.Value, e.Revision)
		if err != nil {
			return nil, 0, fmt.Errorf("%s: %w", e.Key, err)
		}
		if ok {
			entries = append(entries, e)
		}
	}
	return entries, snapshot.Revision, nil
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

// checkListVersion checks which version of a collection a client asks for. Only
// the newest can be had.
func (s *Server) checkListVersion(query url.Values) error {
	if err := checkListOptions(query, false); err != nil {
		return err
	}
	text := query.Get("resourceVersion")
	if query.Get("continue") != "" {
		// No list of this server ends with a continue token.
		return apierrors.NewResourceExpired("the continue token is not of this server: list again from the start")
	}
	if err := s.checkReached(text); err != nil {
		return err
	}
	if metav1.ResourceVersionMatch(query.Get("resourceVersionMatch")) != metav1.ResourceVersionMatchExact {
		return nil
	}
	wanted, err := queryRevision(text)
	if err == nil && wanted != s.store.Revision() {
		return expiredError(wanted)
	}
	return err
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
