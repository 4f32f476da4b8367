package apiserver

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// trackOwners gives each resource that stores objects the managers that keep
// metadata.managedFields. schemas are the published schemas by name.
func trackOwners(resources []*resource, schemas map[string]*spec.Schema) error {
	types, err := managedfields.NewTypeConverter(schemas, false)
	if err != nil {
		return fmt.Errorf("schemas cannot be used to track field owners: %w", err)
	}
	for _, r := range resources {
		if r.view != nil || r.answer != nil {
			continue
		}
		if r.owners, err = newOwners(types, r, ""); err != nil {
			return err
		}
		if r.status {
			if r.statusOwners, err = newOwners(types, r, "status"); err != nil {
				return err
			}
		}
		if r.scale != nil {
			if r.scaleOwners, err = newOwners(types, r, "scale"); err != nil {
				return err
			}
		}
	}
	return nil
}

// newOwners makes the field manager of a resource or of its status. Each one
// ignores the fields that its endpoint does not write.
func newOwners(types managedfields.TypeConverter, r *resource, subresource string) (*managedfields.FieldManager, error) {
	reset := map[fieldpath.APIVersion]*fieldpath.Set{}
	version := fieldpath.APIVersion(r.gvk.GroupVersion().String())
	switch {
	case subresource == "status":
		untouched := fieldpath.NewSet()
		for name := range r.openAPI.Properties {
			if name != "status" && name != "apiVersion" && name != "kind" && name != "metadata" {
				untouched.Insert(fieldpath.MakePathOrDie(name))
			}
		}
		reset[version] = untouched
	case r.status:
		reset[version] = fieldpath.NewSet(fieldpath.MakePathOrDie("status"))
	}
	m, err := managedfields.NewDefaultCRDFieldManager(types, oneVersion{}, schemaDefaulter{r.schema}, emptyObjects{},
		r.gvk, r.gvk.GroupVersion(), subresource, fieldpath.NewExcludeFilterSetMap(reset))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.gvr, err)
	}
	return m, nil
}

// track records in u that manager owns what differs between old and u. Only
// the parts that differ are looked at, so that a change of the status costs
// nothing for the spec. u must be valid.
func track(owners *managedfields.FieldManager, u, old *unstructured.Unstructured, manager string) error {
	before := &unstructured.Unstructured{Object: map[string]any{"apiVersion": old.GetAPIVersion(), "kind": old.GetKind()}}
	after := &unstructured.Unstructured{Object: map[string]any{"apiVersion": u.GetAPIVersion(), "kind": u.GetKind()}}
	if meta, ok := old.Object["metadata"]; ok {
		before.Object["metadata"] = meta
	}
	meta := metadataOf(u.Object)
	after.Object["metadata"] = meta
	for _, part := range changedParts(u.Object, old.Object) {
		if v, ok := old.Object[part]; ok {
			before.Object[part] = v
		}
		if v, ok := u.Object[part]; ok {
			after.Object[part] = v
		}
	}
	tracked, err := owners.Update(before, after, manager)
	if err != nil {
		return fmt.Errorf("%s %q: field owners cannot be tracked: %w", u.GetKind(), u.GetName(), err)
	}
	accessor, ok := tracked.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("%s %q: field owners cannot be tracked in a %T", u.GetKind(), u.GetName(), tracked)
	}
	if fields, ok := metadataOf(accessor.Object)["managedFields"]; ok {
		meta["managedFields"] = fields
	} else {
		delete(meta, "managedFields")
	}
	return nil
}

// oneVersion is the converter between the versions of a kind that has one.
type oneVersion struct{}

func (oneVersion) Convert(_, _, _ any) error {
	return fmt.Errorf("conversion between versions is not served")
}

func (oneVersion) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	kind := in.GetObjectKind().GroupVersionKind()
	if to, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{kind}); !ok || to != kind {
		return nil, runtime.NewNotRegisteredGVKErrForTarget("apiserver", kind, target)
	}
	return in, nil
}

func (oneVersion) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

// schemaDefaulter fills in the defaults of one kind's schema.
type schemaDefaulter struct{ schema *engine }

func (d schemaDefaulter) Default(in runtime.Object) {
	if u, ok := in.(*unstructured.Unstructured); ok {
		d.schema.applyDefaults(u.Object)
	}
}

// emptyObjects makes objects that hold nothing but their kind.
type emptyObjects struct{}

func (emptyObjects) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetGroupVersionKind(kind)
	return u, nil
}
