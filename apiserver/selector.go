package apiserver

import (
	"bytes"
	"fmt"
	"net/url"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"sandboxd.dev/sandboxd/store"
)

// selectableField is a field that a field selector may name.
type selectableField struct {
	name string // as selectors write it
	path []string
}

// newSelectableFields reads the selectable fields of a definition. They are
// plain paths, such as .spec.image.
func newSelectableFields(defined []apiextensionsv1.SelectableField) ([]selectableField, error) {
	var selectable []selectableField
	for _, d := range defined {
		name, ok := strings.CutPrefix(d.JSONPath, ".")
		if !ok || name == "" || strings.ContainsAny(name, "[]{}*@?\"'") {
			return nil, fmt.Errorf("selectable field %q is not a plain path", d.JSONPath)
		}
		selectable = append(selectable, selectableField{name: name, path: strings.Split(name, ".")})
	}
	return selectable, nil
}

// value is the field's value as selectors compare it; empty when unset.
func (f selectableField) value(obj map[string]any) string {
	v, found, err := unstructured.NestedFieldNoCopy(obj, f.path...)
	if !found || err != nil || v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

// selector picks the objects that a list, a watch or a collection's deletion is
// about.
type selector struct {
	resource  *resource
	namespace string // empty for all
	labels    labels.Selector
	fields    fields.Selector
	// keyOnly: everything that is asked can be answered from an entry's key.
	keyOnly bool
	// traces are texts that the stored value of every object that matches has: they
	// pass over the others without decoding them.
	traces [][]byte
}

// newSelector reads the selectors of a request.
func newSelector(r *resource, namespace string, query url.Values) (*selector, error) {
	s := &selector{resource: r, namespace: namespace, keyOnly: true}
	var err error
	if s.labels, err = labels.Parse(query.Get("labelSelector")); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("labelSelector cannot be parsed: %v", err))
	}
	if s.fields, err = fields.ParseSelector(query.Get("fieldSelector")); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("fieldSelector cannot be parsed: %v", err))
	}
	if !s.labels.Empty() {
		s.keyOnly = false
	}
	for _, requirement := range s.fields.Requirements() {
		switch {
		case requirement.Field == "metadata.name", requirement.Field == "metadata.namespace" && r.namespaced:
		case slices.ContainsFunc(r.selectable, func(f selectableField) bool { return f.name == requirement.Field }):
			s.keyOnly = false
		default:
			return nil, apierrors.NewBadRequest(fmt.Sprintf("field label not supported: %s cannot be selected by %q, only by %s",
				r.gvr.Resource, requirement.Field, strings.Join(r.selectableNames(), ", ")))
		}
	}
	s.findTraces()
	return s, nil
}

// findTraces finds what the stored values of all objects that match have in
// common. A view shows other values than are stored.
func (s *selector) findTraces() {
	if s.resource.view != nil {
		return
	}
	requirements, _ := s.labels.Requirements()
	for _, r := range requirements {
		trace := append(appendString(nil, r.Key()), ':')
		switch r.Operator() {
		case selection.Equals, selection.DoubleEquals:
			if value, ok := r.Values().PopAny(); ok {
				trace = appendString(trace, value)
			}
		case selection.Exists, selection.In, selection.GreaterThan, selection.LessThan:
		default:
			continue // what has no such label matches too
		}
		s.traces = append(s.traces, trace)
	}
	for _, r := range s.fields.Requirements() {
		if r.Operator == selection.NotEquals || r.Value == "" || strings.HasPrefix(r.Field, "metadata.") {
			continue
		}
		// As it is stored, but for the quotes, which only strings have.
		quoted := appendString(nil, r.Value)
		s.traces = append(s.traces, quoted[1:len(quoted)-1])
	}
}

func (r *resource) selectableNames() []string {
	names := []string{"metadata.name"}
	if r.namespaced {
		names = append(names, "metadata.namespace")
	}
	for _, f := range r.selectable {
		names = append(names, f.name)
	}
	return names
}

// matchesKey tells whether an entry may match, judged by its key alone. When
// keyOnly is set, the answer is final.
func (s *selector) matchesKey(key store.Key) bool {
	if s.namespace != "" && key.Namespace != s.namespace {
		return false
	}
	for _, requirement := range s.fields.Requirements() {
		var value string
		switch requirement.Field {
		case "metadata.name":
			value = key.Name
		case "metadata.namespace":
			value = key.Namespace
		default:
			continue
		}
		if (value == requirement.Value) == (requirement.Operator == selection.NotEquals) {
			return false
		}
	}
	return true
}

// matchesObject tells whether an object, in the resource's own form, matches.
func (s *selector) matchesObject(u *unstructured.Unstructured) bool {
	if !s.labels.Empty() && !s.labels.Matches(labels.Set(u.GetLabels())) {
		return false
	}
	if s.fields.Empty() {
		return true
	}
	set := fields.Set{"metadata.name": u.GetName(), "metadata.namespace": u.GetNamespace()}
	for _, f := range s.resource.selectable {
		set[f.name] = f.value(u.Object)
	}
	return s.fields.Matches(set)
}

// matches decides about a stored value. It decodes the value only when it must,
// and then returns the object, in the resource's own form.
func (s *selector) matches(key store.Key, value []byte, revision int64) (bool, *unstructured.Unstructured, error) {
	if value == nil || !s.matchesKey(key) {
		return false, nil, nil
	}
	if s.keyOnly {
		return true, nil, nil
	}
	for _, trace := range s.traces {
		if !bytes.Contains(value, trace) {
			return false, nil, nil
		}
	}
	u, err := s.resource.decode(value, revision)
	if err != nil {
		return false, nil, err
	}
	return s.matchesObject(u), u, nil
}

// decode parses a stored value into the resource's own form.
func (r *resource) decode(value []byte, revision int64) (*unstructured.Unstructured, error) {
	u, err := decodeStored(value, revision)
	if err != nil {
		return nil, err
	}
	if r.view != nil {
		r.view.to(u.Object)
	}
	return u, nil
}
