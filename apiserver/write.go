package apiserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sandboxd.dev/sandboxd/store"
)

const (
	// maxAttempts bounds how often a write is computed again because another
	// writer came between. Each time somebody else made progress.
	maxAttempts = 64
	// maxGenerated bounds how many generated names are tried.
	maxGenerated = 8
)

// create stores a new object.
func (s *Server) create(w http.ResponseWriter, rq *request) error {
	o, err := rq.writeOptions()
	if err != nil {
		return err
	}
	u, err := s.readObject(w, rq, o)
	if err != nil {
		return err
	}
	if rq.resource.answer != nil {
		return s.review(w, rq, u)
	}
	if rq.resource.view != nil {
		if rq.resource.check != nil {
			if errs := rq.resource.check(u, nil); len(errs) > 0 {
				return apierrors.NewInvalid(rq.resource.gvk.GroupKind(), u.GetName(), errs)
			}
		}
		rq.resource.view.from(u.Object)
	}
	if u.GetResourceVersion() != "" {
		return apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	generated := u.GetName() == "" && u.GetGenerateName() != ""
	for attempt := 1; ; attempt++ {
		value, revision, err := s.insert(rq, u.DeepCopy(), o, o.managerOr(rq.Request))
		if err == nil {
			return s.writeEntry(w, rq, http.StatusCreated, value, revision)
		}
		if !generated || !apierrors.IsAlreadyExists(err) || attempt == maxGenerated {
			return err
		}
	}
}

// insert stores a new object, in its stored form, and returns its value and
// revision. Its fields belong to manager; no manager means that they have
// their owners already.
func (s *Server) insert(rq *request, u *unstructured.Unstructured, o options, manager string) ([]byte, int64, error) {
	r := rq.resource.base()
	if err := checkIdentity(rq, u); err != nil {
		return nil, 0, err
	}
	r.prepareCreate(u, s.clock.Now())
	auditObject(rq.Context(), u)
	r.schema.applyDefaults(u.Object)
	if err := r.validate(rq.Context(), u, nil); err != nil {
		return nil, 0, err
	}
	if manager != "" {
		empty := &unstructured.Unstructured{Object: map[string]any{"apiVersion": u.GetAPIVersion(), "kind": u.GetKind()}}
		if err := track(r.owners, u, empty, manager); err != nil {
			return nil, 0, err
		}
	}
	// After the owners were tracked: it belongs to none of those who write manifests.
	if f := s.finalizers[r.groupResource()]; f != "" && !slices.Contains(u.GetFinalizers(), f) {
		u.SetFinalizers(append(u.GetFinalizers(), f))
	}
	if err := s.admit(rq.Context(), Attributes{
		Operation: Create, Resource: r.gvr, Namespace: u.GetNamespace(), Name: u.GetName(),
		Object: u, DryRun: o.dryRun, User: rq.user,
	}); err != nil {
		return nil, 0, err
	}
	value, err := encodeStored(u.Object)
	if err != nil {
		return nil, 0, err
	}
	key := store.Key{Resource: r.key, Namespace: u.GetNamespace(), Name: u.GetName()}
	revision, err := s.putNew(rq.Context(), r, key, value, o.dryRun)
	if err != nil {
		return nil, 0, storeError(err, rq.resource.groupResource(), u.GetName())
	}
	return value, revision, nil
}

// putNew stores a new value while its namespace is there to stay.
func (s *Server) putNew(ctx context.Context, r *resource, key store.Key, value []byte, dryRun bool) (int64, error) {
	s.namespaces.creating.RLock()
	defer s.namespaces.creating.RUnlock()
	if r.namespaced {
		if err := s.namespaces.check(ctx, r.groupResource(), key); err != nil {
			return 0, err
		}
	}
	if !dryRun {
		revision, err := s.store.Put(ctx, key, value, 0)
		if err == nil {
			s.garbage.wrote(key, value)
			if key.Resource == eventsKey {
				s.events.wrote()
			}
		}
		return revision, err
	}
	switch _, err := s.store.Get(ctx, key); {
	case err == nil:
		return 0, store.ErrExists
	case errors.Is(err, store.ErrNotFound):
		return 0, nil
	default:
		return 0, err
	}
}

// update replaces an object, or its status.
func (s *Server) update(w http.ResponseWriter, rq *request) error {
	o, err := rq.writeOptions()
	if err != nil {
		return err
	}
	u, err := s.readObject(w, rq, o)
	if err != nil {
		return err
	}
	if rq.resource.view != nil {
		rq.resource.view.from(u.Object)
	}
	if err := checkIdentity(rq, u); err != nil {
		return err
	}
	r := rq.resource.base()
	// What is not there is not found, before it is said what the update lacks.
	value, revision, err := s.modify(rq, o, func(*unstructured.Unstructured) (*unstructured.Unstructured, error) {
		if u.GetResourceVersion() == "" && !r.unconditional {
			return nil, apierrors.NewInvalid(r.gvk.GroupKind(), rq.name, field.ErrorList{
				field.Invalid(field.NewPath("metadata", "resourceVersion"), "", "must be specified for an update"),
			})
		}
		return u.DeepCopy(), nil
	}, o.managerOr(rq.Request))
	if err != nil {
		return err
	}
	return s.writeEntry(w, rq, http.StatusOK, value, revision)
}

// errRaced: another writer came between reading and writing.
var errRaced = errors.New("another writer came between")

// modify stores what change makes of the stored object, and computes it again
// when another writer came between. change gets the object in its stored form,
// must not alter it, and returns one of its own. The fields that differ then
// belong to manager; no manager means that change has tracked the owners.
func (s *Server) modify(rq *request, o options, change func(old *unstructured.Unstructured) (*unstructured.Unstructured, error), manager string) ([]byte, int64, error) {
	for range maxAttempts {
		entry, err := s.store.Get(rq.Context(), rq.key())
		if err != nil {
			return nil, 0, storeError(err, rq.resource.groupResource(), rq.name)
		}
		value, revision, err := s.modifyOnce(rq, o, entry, change, manager)
		if !errors.Is(err, errRaced) {
			return value, revision, err
		}
	}
	return nil, 0, changedError(rq.resource.groupResource(), rq.name)
}

func (s *Server) modifyOnce(rq *request, o options, entry store.Entry, change func(*unstructured.Unstructured) (*unstructured.Unstructured, error), manager string) ([]byte, int64, error) {
	r := rq.resource.base()
	old, err := decodeStored(entry.Value, entry.Revision)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", entry.Key, err)
	}
	u, err := change(old)
	if err != nil {
		return nil, 0, err
	}
	if err := checkVersion(rq, u, old); err != nil {
		return nil, 0, err
	}
	owners := r.owners
	switch rq.subresource {
	case "status":
		u, owners = onlyStatus(u, old), r.statusOwners
		if r.prepare != nil {
			r.prepare(u.Object, old.Object)
		}
	case "scale":
		r.prepareUpdate(u, old)
		owners = r.scaleOwners
	case "finalize": // which changes nothing else
	default:
		r.prepareUpdate(u, old)
	}
	r.schema.applyDefaults(u.Object)
	if err := r.validate(rq.Context(), u, old); err != nil {
		return nil, 0, err
	}
	if manager != "" {
		if err := track(owners, u, old, manager); err != nil {
			return nil, 0, err
		}
	}
	if unchanged(u, old) {
		return entry.Value, entry.Revision, nil
	}
	if err := s.admit(rq.Context(), Attributes{
		Operation: Update, Resource: r.gvr, Subresource: rq.subresource, Namespace: rq.namespace, Name: rq.name,
		Object: u, OldObject: old, DryRun: o.dryRun, User: rq.user,
	}); err != nil {
		return nil, 0, err
	}
	value, err := encodeStored(u.Object)
	if err != nil {
		return nil, 0, err
	}
	if o.dryRun {
		return value, entry.Revision, nil
	}
	revision, err := s.replace(rq.Context(), r, entry, u, value)
	return value, revision, err
}

// replace stores the new value of an entry, or removes the entry when nothing
// holds the object back from its deletion any more.
func (s *Server) replace(ctx context.Context, r *resource, entry store.Entry, u *unstructured.Unstructured, value []byte) (int64, error) {
	var revision int64
	var err error
	gone := u.GetDeletionTimestamp() != nil && !r.heldBack(u)
	if gone {
		revision, err = s.remove(ctx, entry)
	} else {
		revision, err = s.store.Put(ctx, entry.Key, value, entry.Revision)
	}
	switch {
	case errors.Is(err, store.ErrConflict):
		return 0, errRaced
	case err != nil:
		return 0, storeError(err, r.groupResource(), entry.Key.Name)
	}
	if !gone {
		s.garbage.wrote(entry.Key, value)
	}
	return revision, nil
}

// remove deletes an entry at the revision at which it was read.
func (s *Server) remove(ctx context.Context, entry store.Entry) (int64, error) {
	revision, err := s.store.Delete(ctx, entry.Key, entry.Revision)
	if err == nil {
		s.garbage.removed(ctx, entry)
		if entry.Key.Namespace != "" {
			s.namespaces.contentRemoved()
		}
	}
	return revision, err
}

// checkVersion refuses a write that is based on another object or version than
// the stored one.
func checkVersion(rq *request, u, old *unstructured.Unstructured) error {
	if err := checkIdentity(rq, u); err != nil {
		return err
	}
	gr := rq.resource.groupResource()
	if uid := u.GetUID(); uid != "" && uid != old.GetUID() {
		return apierrors.NewConflict(gr, rq.name, fmt.Errorf("the UID in the request (%s) is not that of the object (%s)", uid, old.GetUID()))
	}
	if version := u.GetResourceVersion(); version != "" && version != old.GetResourceVersion() {
		return changedError(gr, rq.name)
	}
	return nil
}

// validate checks an object that is about to be stored; old is nil for a
// create.
func (r *resource) validate(ctx context.Context, u, old *unstructured.Unstructured) error {
	path := field.NewPath("metadata")
	var errs field.ErrorList
	var before map[string]any
	if old == nil {
		errs = apivalidation.ValidateObjectMetaAccessor(withoutOwners(u), r.namespaced, r.nameCheck(), path)
	} else {
		before = old.Object
		errs = apivalidation.ValidateObjectMetaAccessorUpdate(withoutOwners(u), withoutOwners(old), path)
	}
	errs = append(errs, r.schema.validate(ctx, u.Object, before)...)
	if r.check != nil && len(errs) == 0 {
		errs = append(errs, r.check(u, old)...)
	}
	if len(errs) == 0 {
		return nil
	}
	errs = errs[:min(len(errs), maxProblems)]
	return apierrors.NewInvalid(r.gvk.GroupKind(), u.GetName(), readable(errs, r.singular))
}

// withoutOwners is an object's metadata without managedFields. Those that a
// client sends are only a wish, on which the field manager decides.
func withoutOwners(u *unstructured.Unstructured) *unstructured.Unstructured {
	meta := maps.Clone(metadataOf(u.Object))
	delete(meta, "managedFields")
	return &unstructured.Unstructured{Object: map[string]any{"metadata": meta}}
}
