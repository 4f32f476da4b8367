package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	jsonpatch "github.com/evanphx/json-patch/v5"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	kjson "sigs.k8s.io/json"
)

// The media types of patches.
const (
	mediaJSONPatch      = "application/json-patch+json"
	mediaMergePatch     = "application/merge-patch+json"
	mediaStrategicPatch = "application/strategic-merge-patch+json"
	mediaApply          = "application/apply-patch+yaml"
)

// maxPatchOperations is the longest JSON patch, as in Kubernetes.
const maxPatchOperations = 10000

// patcher makes the patched tree of an object out of its tree, which it may
// alter.
type patcher func(tree map[string]any) (map[string]any, error)

// patch changes part of an object, or of its status.
func (s *Server) patch(w http.ResponseWriter, rq *request) error {
	o, err := rq.writeOptions()
	if err != nil {
		return err
	}
	media, body, err := s.readMedia(w, rq.Request)
	if err != nil {
		return err
	}
	if media == mediaApply {
		return s.apply(w, rq, o, body)
	}
	patch, problems, err := newPatcher(rq.resource, media, body)
	if err != nil {
		return err
	}
	value, revision, err := s.modify(rq, o, func(old *unstructured.Unstructured) (*unstructured.Unstructured, error) {
		w.Header().Del("Warning") // those of an earlier attempt
		tree := old.DeepCopy().Object
		if rq.resource.view != nil {
			rq.resource.view.to(tree)
		}
		tree, err := patch(tree)
		if err != nil {
			return nil, err
		}
		u, err := admitTree(w, rq.resource, tree, metadataOf(old.Object), problems, o)
		if err != nil {
			return nil, err
		}
		if rq.resource.view != nil {
			rq.resource.view.from(u.Object)
		}
		return u, nil
	}, o.managerOr(rq.Request))
	if err != nil {
		return err
	}
	return s.writeEntry(w, rq, http.StatusOK, value, revision)
}

// newPatcher reads a patch. problems are what strict decoding finds in it.
func newPatcher(r *resource, media string, body []byte) (patch patcher, problems []error, err error) {
	switch media {
	case mediaJSONPatch:
		patch, err := newJSONPatcher(body)
		return patch, jsonPatchProblems(body), err
	case mediaMergePatch:
		changes, problems, err := parseJSON(body)
		if err != nil {
			return nil, nil, err
		}
		return func(tree map[string]any) (map[string]any, error) { return mergeInto(tree, changes), nil }, problems, nil
	case mediaStrategicPatch:
		if r.goType == nil {
			return nil, nil, unsupportedMedia(media, mediaJSONPatch, mediaMergePatch, mediaApply)
		}
		changes, problems, err := parseJSON(body)
		if err != nil {
			return nil, nil, err
		}
		return func(tree map[string]any) (map[string]any, error) {
			patched, err := strategicpatch.StrategicMergeMapPatch(tree, runtime.DeepCopyJSON(changes), r.goType())
			if err != nil {
				return nil, apierrors.NewBadRequest(fmt.Sprintf("the strategic merge patch cannot be applied: %v", err))
			}
			return patched, nil
		}, problems, nil
	}
	return nil, nil, unsupportedMedia(media, mediaJSONPatch, mediaMergePatch, mediaStrategicPatch, mediaApply)
}

func newJSONPatcher(body []byte) (patcher, error) {
	operations, err := jsonpatch.DecodePatch(body)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the body is not a JSON patch: %v", err))
	}
	if len(operations) > maxPatchOperations {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the JSON patch has more than %d operations", maxPatchOperations))
	}
	options := jsonpatch.NewApplyOptions()
	options.AccumulatedCopySizeLimit = maxBody // copies may not blow an object up
	return func(tree map[string]any) (map[string]any, error) {
		document, err := json.Marshal(tree)
		if err != nil {
			return nil, err
		}
		patched, err := operations.ApplyWithOptions(document, options)
		if err != nil {
			return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
				Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid,
				Message: fmt.Sprintf("the JSON patch cannot be applied: %v", err),
			}}
		}
		tree, _, err = parseJSON(patched)
		return tree, err
	}, nil
}

// jsonPatchProblems is what strict decoding finds in a JSON patch: members that
// operations do not have, and duplicate ones.
func jsonPatchProblems(body []byte) []error {
	var operations []struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		From  string `json:"from"`
		Value any    `json:"value"`
	}
	problems, err := kjson.UnmarshalStrict(body, &operations)
	if err != nil {
		return nil // the patcher says why
	}
	for i, problem := range problems {
		problems[i] = fmt.Errorf("json patch %w", problem)
	}
	return problems
}

// mergeInto applies a JSON merge patch (RFC 7386) to a tree. The patch is not
// altered and shares nothing with the result.
func mergeInto(tree, changes map[string]any) map[string]any {
	if tree == nil {
		tree = map[string]any{}
	}
	for k, change := range changes {
		switch change := change.(type) {
		case nil:
			delete(tree, k)
		case map[string]any:
			below, _ := tree[k].(map[string]any)
			tree[k] = mergeInto(below, change)
		default:
			tree[k] = runtime.DeepCopyJSONValue(change)
		}
	}
	return tree
}

// apply merges a configuration into an object by the rules of server-side
// apply, and creates the object when there is none.
func (s *Server) apply(w http.ResponseWriter, rq *request, o options, body []byte) error {
	u, err := readApplied(w, rq, o, body)
	if err != nil {
		return err
	}
	r := rq.resource.base()
	owners := r.owners
	if rq.subresource == "status" {
		owners = r.statusOwners
	}
	merge := func(live *unstructured.Unstructured) (*unstructured.Unstructured, error) {
		merged, err := owners.Apply(live, u.DeepCopy(), o.manager, o.force)
		if err != nil {
			return nil, applyError(err)
		}
		applied, ok := merged.(*unstructured.Unstructured)
		if !ok {
			return nil, fmt.Errorf("%s %q lost its form while it was merged", r.gvk.Kind, rq.name)
		}
		return applied.DeepCopy(), nil // it shares parts with live
	}
	for range maxAttempts {
		value, revision, err := s.modify(rq, o, merge, "")
		if err == nil {
			return s.writeEntry(w, rq, http.StatusOK, value, revision)
		}
		if !isMissing(err, rq) || rq.subresource != "" {
			return err
		}
		value, revision, err = s.applyNew(rq, u, o, merge)
		if err == nil {
			return s.writeEntry(w, rq, http.StatusCreated, value, revision)
		}
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return changedError(rq.resource.groupResource(), rq.name)
}

// applyNew creates the object that is applied.
func (s *Server) applyNew(rq *request, u *unstructured.Unstructured, o options, merge func(*unstructured.Unstructured) (*unstructured.Unstructured, error)) ([]byte, int64, error) {
	gr := rq.resource.groupResource()
	if u.GetUID() != "" || u.GetResourceVersion() != "" {
		return nil, 0, apierrors.NewConflict(gr, rq.name, errors.New("the applied object names a uid or resourceVersion, but no such object exists"))
	}
	create := actionOf(rq.Request)
	create.Verb = "create" // the right to patch is not one to make
	if err := s.authorize(rq.Context(), rq.user, create); err != nil {
		return nil, 0, err
	}
	empty := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": u.GetAPIVersion(), "kind": u.GetKind(), "metadata": map[string]any{},
	}}
	created, err := merge(empty)
	if err != nil {
		return nil, 0, err
	}
	return s.insert(rq, created, o, "")
}

// readApplied reads an applied configuration in the stored form. It is partial,
// so nothing is defaulted.
func readApplied(w http.ResponseWriter, rq *request, o options, body []byte) (*unstructured.Unstructured, error) {
	tree, problems, err := parseYAML(body)
	if err != nil {
		return nil, err
	}
	meta, _ := tree["metadata"].(map[string]any)
	if meta["managedFields"] != nil {
		return nil, apierrors.NewBadRequest("metadata.managedFields must be nil")
	}
	u, err := admitTree(w, rq.resource, tree, nil, problems, o)
	if err != nil {
		return nil, err
	}
	if rq.resource.view != nil {
		rq.resource.view.from(u.Object)
	}
	return u, checkIdentity(rq, u)
}

// isMissing tells whether an error says that the requested object itself does
// not exist.
func isMissing(err error, rq *request) bool {
	if !apierrors.IsNotFound(err) {
		return false
	}
	status := statusOf(err)
	return status.Details != nil && status.Details.Kind == rq.resource.gvr.Resource && status.Details.Name == rq.name
}

// applyError gives the errors of merging the form of a Status: a configuration
// that does not fit the schema is the client's mistake.
func applyError(err error) error {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return err
	}
	return apierrors.NewBadRequest(err.Error())
}
