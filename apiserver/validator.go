package apiserver

import (
	"context"
	"fmt"
	"io/fs"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Validator judges manifests as a Server would, without one: by the same
// definitions, defaults and rules. What depends on other objects or on the host
// it cannot know. It may be used concurrently.
type Validator struct {
	registry *registry
}

// NewValidator compiles definitions.
func NewValidator(crds fs.FS) (*Validator, error) {
	resources, _, err := loadResources(crds)
	if err != nil {
		return nil, fmt.Errorf("the definitions cannot be compiled: %w", err)
	}
	g, err := newRegistry(resources)
	if err != nil {
		return nil, err
	}
	return &Validator{g}, nil
}

// Kind is a kind of objects that can be written.
type Kind struct {
	schema.GroupVersionKind
	Resource   schema.GroupVersionResource
	Namespaced bool
}

// Kinds lists the kinds that can be written, in order.
func (v *Validator) Kinds() []Kind {
	var kinds []Kind
	for _, r := range v.registry.all {
		if r.allows("create") && r.view == nil {
			kinds = append(kinds, Kind{r.gvk, r.gvr, r.namespaced})
		}
	}
	return kinds
}

// Validate returns the Status error that a Server would answer to a creation
// with strict field validation, or nil. It returns the object with its defaults
// and leaves the given one alone.
func (v *Validator) Validate(ctx context.Context, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	gvk := u.GroupVersionKind()
	var r *resource
	for _, candidate := range v.registry.all {
		if candidate.gvk == gvk && candidate.view == nil {
			r = candidate
		}
	}
	if r == nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("there is no kind %s in %s", gvk.Kind, gvk.GroupVersion()))
	}
	// The response writer is for warnings, which strict validation does not send.
	judged, err := admitTree(nil, r, u.DeepCopy().Object, nil, nil, options{validation: metav1.FieldValidationStrict})
	if err != nil {
		return nil, err
	}
	r.prepareCreate(judged, time.Now())
	r.schema.applyDefaults(judged.Object)
	return judged, r.validate(ctx, judged, nil)
}
