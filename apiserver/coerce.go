package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sort"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"
)

// coerceMetadata checks the types in an object's metadata and drops what
// metadata does not have, whose paths it returns. It is what decoding into
// metav1.ObjectMeta and back would do, without doing so for the members that
// every object has. Members that are as in known, which may be nil, were
// checked before.
func coerceMetadata(obj, known map[string]any) (unknown []string, err error) {
	if obj["metadata"] == nil {
		obj["metadata"] = map[string]any{}
		return nil, nil
	}
	meta, ok := obj["metadata"].(map[string]any)
	if !ok {
		return nil, errors.New("metadata is malformed: it is no object")
	}
	for name, value := range meta {
		if before, ok := known[name]; ok && reflect.DeepEqual(value, before) {
			continue
		}
		coerce, ok := metadataFields[name]
		switch {
		case !ok:
			unknown = append(unknown, "metadata."+name)
			delete(meta, name)
			continue
		case value == nil:
			delete(meta, name)
			continue
		}
		coerced, paths, err := coerce(value)
		if err != nil {
			return nil, fmt.Errorf("metadata.%s is malformed: %w", name, err)
		}
		for _, path := range paths {
			unknown = append(unknown, "metadata."+name+path)
		}
		if coerced == nil {
			delete(meta, name)
			continue
		}
		meta[name] = coerced
	}
	sort.Strings(unknown)
	return unknown, nil
}

// coercer checks a value and returns it as it is kept, nil when it is empty,
// with the paths of what it dropped.
type coercer func(value any) (any, []string, error)

// metadataFields are the members of metadata.
var metadataFields = map[string]coercer{
	"name": coerceString, "generateName": coerceString, "namespace": coerceString, "selfLink": coerceString,
	"uid": coerceString, "resourceVersion": coerceString,
	"generation": coerceInt, "deletionGracePeriodSeconds": coerceInt,
	"creationTimestamp": coerceTime, "deletionTimestamp": coerceTime,
	"labels": coerceStringMap, "annotations": coerceStringMap, "finalizers": coerceStrings,
	"ownerReferences": coerceInto[[]metav1.OwnerReference],
	"managedFields":   coerceInto[[]metav1.ManagedFieldsEntry],
}

func coerceString(value any) (any, []string, error) {
	s, ok := value.(string)
	switch {
	case !ok:
		return nil, nil, errors.New("it is no string")
	case s == "":
		return nil, nil, nil
	}
	return s, nil, nil
}

func coerceInt(value any) (any, []string, error) {
	n, ok := value.(int64)
	if !ok {
		return nil, nil, errors.New("it is no whole number")
	}
	return n, nil, nil
}

func coerceTime(value any) (any, []string, error) {
	s, ok := value.(string)
	if !ok {
		return nil, nil, errors.New("it is no timestamp")
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return nil, nil, errors.New("it is no timestamp of RFC 3339")
	}
	return formatTime(t), nil, nil
}

func coerceStringMap(value any) (any, []string, error) {
	m, ok := value.(map[string]any)
	if !ok {
		return nil, nil, errors.New("it is no object of strings")
	}
	for k, v := range m {
		switch v.(type) {
		case string:
		case nil:
			m[k] = ""
		default:
			return nil, nil, fmt.Errorf("the value of %q is no string", k)
		}
	}
	if len(m) == 0 {
		return nil, nil, nil
	}
	return m, nil, nil
}

func coerceStrings(value any) (any, []string, error) {
	list, ok := value.([]any)
	if !ok {
		return nil, nil, errors.New("it is no list of strings")
	}
	for _, v := range list {
		if _, ok := v.(string); !ok {
			return nil, nil, errors.New("it is no list of strings")
		}
	}
	if len(list) == 0 {
		return nil, nil, nil
	}
	return list, nil, nil
}

// coerceInto decodes a value into a Go type and renders it anew. An empty list
// is kept: an empty managedFields asks for a reset.
func coerceInto[T any](value any) (any, []string, error) {
	raw, err := json.Marshal(value)
	if err != nil {
		return nil, nil, err
	}
	var typed T
	strict, err := kjson.UnmarshalStrict(raw, &typed)
	if err != nil {
		return nil, nil, errors.New(firstLine(err))
	}
	var paths []string
	for _, problem := range strict {
		if f, ok := problem.(kjson.FieldError); ok {
			paths = append(paths, f.FieldPath())
		}
	}
	tree, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&struct{ Value T }{typed})
	if err != nil {
		return nil, nil, err
	}
	return tree["Value"], paths, nil
}
