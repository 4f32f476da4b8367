package apiserver

import (
	"encoding/base64"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// checkConfigMap checks keys, sizes and what may not change.
func checkConfigMap(u, old *unstructured.Unstructured) field.ErrorList {
	var errs field.ErrorList
	data, _, _ := unstructured.NestedMap(u.Object, "data")
	binary, _, _ := unstructured.NestedMap(u.Object, "binaryData")
	size := 0
	check := func(member, key string) {
		for _, message := range validation.IsConfigMapKey(key) {
			errs = append(errs, field.Invalid(field.NewPath(member).Key(key), key, message))
		}
	}
	for key, v := range data {
		check("data", key)
		if _, twice := binary[key]; twice {
			errs = append(errs, field.Invalid(field.NewPath("data").Key(key), key, "duplicate of key present in binaryData"))
		}
		text, _ := v.(string)
		size += len(text)
	}
	for key, v := range binary {
		check("binaryData", key)
		text, _ := v.(string)
		decoded, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			errs = append(errs, field.Invalid(field.NewPath("binaryData").Key(key), text, "must be encoded in base64"))
		}
		size += len(decoded)
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
	}
	if old == nil {
		return errs
	}
	if immutable, _, _ := unstructured.NestedBool(old.Object, "immutable"); immutable {
		if u.Object["immutable"] != true {
			errs = append(errs, field.Forbidden(field.NewPath("immutable"), "field is immutable when `immutable` is set"))
		}
		for _, member := range []string{"data", "binaryData"} {
			if !reflect.DeepEqual(u.Object[member], old.Object[member]) {
				errs = append(errs, field.Forbidden(field.NewPath(member), "field is immutable when `immutable` is set"))
			}
		}
	}
	return errs
}

func configMapColumns() []column {
	return []column{
		nameColumn(),
		{
			TableColumnDefinition: metav1.TableColumnDefinition{Name: "Data", Type: "integer", Description: "The number of values."},
			cell: func(obj map[string]any, _ time.Time) any {
				data, _ := obj["data"].(map[string]any)
				binary, _ := obj["binaryData"].(map[string]any)
				return int64(len(data) + len(binary))
			},
		},
		ageColumn(),
	}
}
