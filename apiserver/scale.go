package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
)

// scaleKind is the kind that /scale is read and written as.
var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// scale is the /scale subresource of a kind: where an object has the number of
// its replicas, as asked for and as seen.
type scale struct {
	spec, status, selector []string // selector may be nil
}

// newScale reads the declaration of a definition.
func newScale(defined *apiextensionsv1.CustomResourceSubresourceScale) (*scale, error) {
	split := func(path string) ([]string, error) {
		name, ok := strings.CutPrefix(path, ".")
		if !ok || name == "" || strings.ContainsAny(name, "[]{}*@?\"'") {
			return nil, fmt.Errorf("scale path %q is not a plain path", path)
		}
		return strings.Split(name, "."), nil
	}
	sc := &scale{}
	var err error
	if sc.spec, err = split(defined.SpecReplicasPath); err != nil {
		return nil, err
	}
	if sc.status, err = split(defined.StatusReplicasPath); err != nil {
		return nil, err
	}
	if defined.LabelSelectorPath != nil {
		sc.selector, err = split(*defined.LabelSelectorPath)
	}
	return sc, err
}

// of is the Scale of an object.
func (sc *scale) of(u *unstructured.Unstructured) (*autoscalingv1.Scale, error) {
	wanted, found, err := unstructured.NestedInt64(u.Object, sc.spec...)
	if err != nil || !found {
		return nil, apierrors.NewInternalError(fmt.Errorf("%s %q has no number at .%s", u.GetKind(), u.GetName(), strings.Join(sc.spec, ".")))
	}
	seen, _, _ := unstructured.NestedInt64(u.Object, sc.status...)
	selector := ""
	if sc.selector != nil {
		selector, _, _ = unstructured.NestedString(u.Object, sc.selector...)
	}
	return &autoscalingv1.Scale{
		TypeMeta: metav1.TypeMeta{APIVersion: scaleKind.GroupVersion().String(), Kind: scaleKind.Kind},
		ObjectMeta: metav1.ObjectMeta{
			Name: u.GetName(), Namespace: u.GetNamespace(), UID: u.GetUID(),
			ResourceVersion: u.GetResourceVersion(), CreationTimestamp: u.GetCreationTimestamp(),
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: int32(wanted)},                     //nolint:gosec // the schema bounds it
		Status: autoscalingv1.ScaleStatus{Replicas: int32(seen), Selector: selector}, //nolint:gosec // as above
	}, nil
}

// serveScale reads or changes how many replicas an object wants.
func (s *Server) serveScale(w http.ResponseWriter, rq *request) error {
	switch rq.Method {
	case http.MethodGet:
		entry, err := s.store.Get(rq.Context(), rq.key())
		if err != nil {
			return storeError(err, rq.resource.groupResource(), rq.name)
		}
		return s.writeScale(w, rq, entry.Value, entry.Revision)
	case http.MethodPut, http.MethodPatch:
	default:
		return methodNotAllowed(rq.Method, rq.URL.Path)
	}
	o, err := rq.writeOptions()
	if err != nil {
		return err
	}
	media, body, err := s.readMedia(w, rq.Request)
	if err != nil {
		return err
	}
	wanted, err := s.scaleChange(rq.Method, media, body)
	if err != nil {
		return err
	}
	value, revision, err := s.modify(rq, o, func(old *unstructured.Unstructured) (*unstructured.Unstructured, error) {
		w.Header().Del("Warning")
		sc := rq.resource.scale
		before, err := sc.of(old)
		if err != nil {
			return nil, err
		}
		after, err := wanted(before, func(problems []error) error { return judge(w, problems, o.validation) })
		if err != nil {
			return nil, err
		}
		u := old.DeepCopy()
		if after.UID != "" {
			u.SetUID(after.UID)
		}
		u.SetResourceVersion(after.ResourceVersion)
		if after.Spec.Replicas < 0 {
			return nil, apierrors.NewInvalid(scaleKind.GroupKind(), rq.name, field.ErrorList{
				field.Invalid(field.NewPath("spec", "replicas"), after.Spec.Replicas, "must be greater than or equal to 0"),
			})
		}
		return u, unstructured.SetNestedField(u.Object, int64(after.Spec.Replicas), sc.spec...)
	}, o.managerOr(rq.Request))
	if err != nil {
		return err
	}
	return s.writeScale(w, rq, value, revision)
}

func (s *Server) writeScale(w http.ResponseWriter, rq *request, value []byte, revision int64) error {
	u, err := decodeStored(value, revision)
	if err != nil {
		return err
	}
	sc, err := rq.resource.scale.of(u)
	if err != nil {
		return err
	}
	return writeJSON(w, rq.accept, http.StatusOK, sc)
}

// scaleChange reads a body that replaces or patches a Scale.
func (s *Server) scaleChange(method, media string, body []byte) (func(*autoscalingv1.Scale, func([]error) error) (*autoscalingv1.Scale, error), error) {
	var change patcher
	var problems []error
	var err error
	switch {
	case method == http.MethodPut:
		var tree map[string]any
		tree, problems, err = s.codecs.parseBody(media, body)
		change = func(map[string]any) (map[string]any, error) { return runtime.DeepCopyJSON(tree), nil }
	case media == mediaJSONPatch:
		problems = jsonPatchProblems(body)
		change, err = newJSONPatcher(body)
	case media == mediaMergePatch || media == mediaStrategicPatch:
		var changes map[string]any
		changes, problems, err = parseJSON(body)
		change = func(tree map[string]any) (map[string]any, error) {
			if media == mediaMergePatch {
				return mergeInto(tree, changes), nil
			}
			patched, err := strategicpatch.StrategicMergeMapPatch(tree, runtime.DeepCopyJSON(changes), &autoscalingv1.Scale{})
			if err != nil {
				return nil, apierrors.NewBadRequest(fmt.Sprintf("the strategic merge patch cannot be applied: %v", err))
			}
			return patched, nil
		}
	default:
		err = unsupportedMedia(media, mediaJSONPatch, mediaMergePatch, mediaStrategicPatch)
	}
	if err != nil {
		return nil, err
	}
	return func(before *autoscalingv1.Scale, judged func([]error) error) (*autoscalingv1.Scale, error) {
		tree, err := runtime.DefaultUnstructuredConverter.ToUnstructured(before)
		if err != nil {
			return nil, err
		}
		if tree, err = change(tree); err != nil {
			return nil, err
		}
		after, unknown, err := decodeScale(tree)
		if err != nil {
			return nil, err
		}
		return after, judged(append(unknown, problems...))
	}, nil
}

// decodeScale makes a Scale of a tree. problems are what strict decoding finds.
func decodeScale(tree map[string]any) (after *autoscalingv1.Scale, problems []error, err error) {
	if got := (&unstructured.Unstructured{Object: tree}).GroupVersionKind(); got != scaleKind {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("the body is a %s where a %s of %s was expected",
			orWord(got.Kind, "kindless object"), scaleKind.Kind, scaleKind.GroupVersion()))
	}
	raw, err := json.Marshal(tree)
	if err != nil {
		return nil, nil, err
	}
	after = &autoscalingv1.Scale{}
	if problems, err = kjson.UnmarshalStrict(raw, after); err != nil {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("the Scale cannot be decoded: %s", firstLine(err)))
	}
	return after, problems, nil
}
