package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"

	"sandboxd.dev/sandboxd/store"
)

// delete removes an object, or marks it as being deleted while finalizers hold
// it back. It answers with the marked object, or with a Status when the object
// is gone.
func (s *Server) delete(w http.ResponseWriter, rq *request) error {
	o, err := s.readDeleteOptions(w, rq)
	if err != nil {
		return err
	}
	gone, value, revision, err := s.deleteObject(rq, o)
	if err != nil {
		return err
	}
	if !gone {
		return s.writeEntry(w, rq, http.StatusOK, value, revision)
	}
	u, err := decodeStored(value, revision)
	if err != nil {
		return err
	}
	return writeJSON(w, rq.accept, http.StatusOK, metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusSuccess,
		Details: &metav1.StatusDetails{
			Name: rq.name, Group: rq.resource.gvr.Group, Kind: rq.resource.gvr.Resource, UID: u.GetUID(),
		},
	})
}

// deleteObject deletes the object that the request names. gone tells whether it
// left the store; otherwise the value is that of the object marked as being
// deleted.
func (s *Server) deleteObject(rq *request, o *metav1.DeleteOptions) (gone bool, value []byte, revision int64, err error) {
	r := rq.resource.base()
	dryRun := len(o.DryRun) > 0
	for range maxAttempts {
		entry, err := s.store.Get(rq.Context(), rq.key())
		if err != nil {
			return false, nil, 0, storeError(err, rq.resource.groupResource(), rq.name)
		}
		old, err := decodeStored(entry.Value, entry.Revision)
		if err != nil {
			return false, nil, 0, fmt.Errorf("%s: %w", entry.Key, err)
		}
		if err := checkPreconditions(rq, o.Preconditions, old); err != nil {
			return false, nil, 0, err
		}
		if r.checkDelete != nil {
			if err := r.checkDelete(old); err != nil {
				return false, nil, 0, err
			}
		}
		if err := s.admit(rq.Context(), Attributes{
			Operation: Delete, Resource: r.gvr, Namespace: rq.namespace, Name: rq.name,
			OldObject: old, DryRun: dryRun, User: rq.user,
		}); err != nil {
			return false, nil, 0, err
		}
		kept := keepFor(old.GetFinalizers(), o)
		again := slices.Equal(kept, old.GetFinalizers())
		old.SetFinalizers(kept)
		held := r.heldBack(old)
		switch {
		case held && old.GetDeletionTimestamp() != nil && again: // marked already
			return false, entry.Value, entry.Revision, nil
		case held:
			value, revision, err = s.markDeleted(rq, entry, old, dryRun)
		case dryRun:
			value, revision = entry.Value, entry.Revision
		default:
			value = entry.Value
			revision, err = s.remove(rq.Context(), entry)
		}
		if err == nil {
			return !held, value, revision, nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return false, nil, 0, storeError(err, rq.resource.groupResource(), rq.name)
		}
	}
	return false, nil, 0, changedError(rq.resource.groupResource(), rq.name)
}

// markDeleted stores an object as being deleted.
func (s *Server) markDeleted(rq *request, entry store.Entry, old *unstructured.Unstructured, dryRun bool) ([]byte, int64, error) {
	r := rq.resource.base()
	if old.GetDeletionTimestamp() == nil {
		meta := metadataOf(old.Object)
		meta["deletionTimestamp"] = formatTime(s.clock.Now())
		meta["deletionGracePeriodSeconds"] = int64(0)
		if !r.ungenerated {
			meta["generation"] = old.GetGeneration() + 1
		}
		if r.marked != nil {
			r.marked(old.Object)
		}
	}
	value, err := encodeStored(old.Object)
	if err != nil || dryRun {
		return value, entry.Revision, err
	}
	revision, err := s.store.Put(rq.Context(), entry.Key, value, entry.Revision)
	if err == nil {
		s.garbage.wrote(entry.Key, value)
		if r.key == namespacesKey {
			s.namespaces.terminating()
		}
	}
	return value, revision, err
}

// heldBack tells whether something keeps an object from leaving the store.
func (r *resource) heldBack(u *unstructured.Unstructured) bool {
	return len(u.GetFinalizers()) > 0 || (r.holds != nil && r.holds(u))
}

func checkPreconditions(rq *request, p *metav1.Preconditions, old *unstructured.Unstructured) error {
	if p == nil {
		return nil
	}
	gr := rq.resource.groupResource()
	if p.UID != nil && *p.UID != old.GetUID() {
		return apierrors.NewConflict(gr, rq.name, fmt.Errorf("the UID in the precondition (%s) is not that of the object (%s)", *p.UID, old.GetUID()))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != old.GetResourceVersion() {
		return apierrors.NewConflict(gr, rq.name, fmt.Errorf("the resourceVersion in the precondition (%s) is not that of the object (%s)", *p.ResourceVersion, old.GetResourceVersion()))
	}
	return nil
}

// deleteCollection deletes what the selectors pick and answers with the list
// of it. An object that somebody else removes meanwhile is no error. With limit it
// deletes no more than that, whatever version it names: it is about what there is.
func (s *Server) deleteCollection(w http.ResponseWriter, rq *request) error {
	o, err := s.readDeleteOptions(w, rq)
	if err != nil {
		return err
	}
	sel, err := newSelector(rq.resource, rq.namespace, rq.query)
	if err != nil {
		return err
	}
	part, err := newPageOptions(rq.query, sel)
	if err != nil {
		return err
	}
	part.at = newest
	if part.limit, err = queryLimit(rq.query); err != nil {
		return err
	}
	picked, err := s.selectPage(rq, sel, part)
	if err != nil {
		return err
	}
	entries := picked.entries
	picked.entries = make([]store.Entry, 0, len(entries))
	for _, e := range entries {
		one := *rq
		one.namespace, one.name = e.Key.Namespace, e.Key.Name
		if _, _, _, err := s.deleteObject(&one, o); err != nil {
			if apierrors.IsNotFound(err) {
				continue
			}
			return err
		}
		picked.entries = append(picked.entries, e)
	}
	return s.writeList(w, rq, picked)
}

// readDeleteOptions reads the options of a deletion from the body, or from the
// query when there is no body.
func (s *Server) readDeleteOptions(w http.ResponseWriter, rq *request) (*metav1.DeleteOptions, error) {
	body, err := s.readBody(w, rq.Request)
	if err != nil {
		return nil, err
	}
	o := &metav1.DeleteOptions{}
	if len(body) > 0 {
		media, err := bodyMedia(rq.Request)
		if err != nil {
			return nil, err
		}
		tree, _, err := s.codecs.parseBody(media, body)
		if err != nil {
			return nil, err
		}
		if kind, _ := tree["kind"].(string); kind != "" && kind != "DeleteOptions" {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("the body of a deletion is a %s where DeleteOptions were expected", kind))
		}
		raw, err := json.Marshal(tree)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(raw, o); err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("the DeleteOptions cannot be decoded: %v", err))
		}
	} else if err := deleteOptionsFrom(rq.query, o); err != nil {
		return nil, err
	}
	if len(o.DryRun) == 1 && o.DryRun[0] == "" {
		o.DryRun = nil
	}
	if errs := validation.ValidateDeleteOptions(o); len(errs) > 0 {
		return nil, apierrors.NewInvalid(metav1.SchemeGroupVersion.WithKind("DeleteOptions").GroupKind(), "", errs)
	}
	if orphan := o.OrphanDependents; orphan != nil { //nolint:staticcheck // clients still send it
		policy := metav1.DeletePropagationBackground
		if *orphan {
			policy = metav1.DeletePropagationOrphan
		}
		o.PropagationPolicy = &policy
	}
	return o, nil
}

// deleteOptionsFrom reads the options of a deletion from a query.
func deleteOptionsFrom(query url.Values, o *metav1.DeleteOptions) error {
	o.DryRun = query["dryRun"]
	if policy := metav1.DeletionPropagation(query.Get("propagationPolicy")); policy != "" {
		o.PropagationPolicy = &policy
	}
	if query.Has("orphanDependents") {
		orphan, err := queryBool(query, "orphanDependents")
		if err != nil {
			return err
		}
		o.OrphanDependents = &orphan //nolint:staticcheck // clients still send it
	}
	// Nothing here is deleted gracefully, but what is no number is a mistake.
	if text := query.Get("gracePeriodSeconds"); text != "" {
		if _, err := strconv.ParseInt(text, 10, 64); err != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("gracePeriodSeconds %q is not a number of seconds", text))
		}
	}
	return nil
}
