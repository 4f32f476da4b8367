package apiserver

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// prepareSecret moves stringData into data, where it wins over a value of the
// same key.
func prepareSecret(obj, _ map[string]any) {
	plain, _ := obj["stringData"].(map[string]any)
	delete(obj, "stringData")
	if len(plain) == 0 {
		return
	}
	data, _ := obj["data"].(map[string]any)
	merged := make(map[string]any, len(data)+len(plain))
	for k, v := range data {
		merged[k] = v
	}
	for k, v := range plain {
		if text, ok := v.(string); ok {
			merged[k] = base64.StdEncoding.EncodeToString([]byte(text))
		}
	}
	obj["data"] = merged
}

// secretKeys are the keys that a Secret of a type must have.
var secretKeys = map[string][]string{
	string(corev1.SecretTypeDockercfg):        {corev1.DockerConfigKey},
	string(corev1.SecretTypeDockerConfigJson): {corev1.DockerConfigJsonKey},
	string(corev1.SecretTypeSSHAuth):          {corev1.SSHAuthPrivateKey},
	string(corev1.SecretTypeTLS):              {corev1.TLSCertKey, corev1.TLSPrivateKeyKey},
}

// checkSecret checks keys, sizes, what the type demands and what may not
// change. It never repeats a value.
func checkSecret(u, old *unstructured.Unstructured) field.ErrorList {
	data, _, _ := unstructured.NestedMap(u.Object, "data")
	path := field.NewPath("data")
	var errs field.ErrorList
	size := 0
	for key, v := range data {
		for _, message := range validation.IsConfigMapKey(key) {
			errs = append(errs, field.Invalid(path.Key(key), key, message))
		}
		text, _ := v.(string)
		decoded, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			errs = append(errs, field.Invalid(path.Key(key), "(hidden)", "must be encoded in base64"))
		}
		size += len(decoded)
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(path, "", corev1.MaxSecretSize))
	}
	kind, _, _ := unstructured.NestedString(u.Object, "type")
	errs = append(errs, checkSecretType(kind, u, data, path)...)
	if old == nil {
		return errs
	}
	if kind != old.Object["type"] {
		errs = append(errs, field.Invalid(field.NewPath("type"), kind, "field is immutable"))
	}
	if immutable, _, _ := unstructured.NestedBool(old.Object, "immutable"); immutable {
		if u.Object["immutable"] != true {
			errs = append(errs, field.Forbidden(field.NewPath("immutable"), "field is immutable when `immutable` is set"))
		}
		if !reflect.DeepEqual(u.Object["data"], old.Object["data"]) {
			errs = append(errs, field.Forbidden(path, "field is immutable when `immutable` is set"))
		}
	}
	return errs
}

func checkSecretType(kind string, u *unstructured.Unstructured, data map[string]any, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, key := range secretKeys[kind] {
		if _, ok := data[key]; !ok {
			errs = append(errs, field.Required(path.Key(key), fmt.Sprintf("a Secret of type %s has it", kind)))
		}
	}
	switch corev1.SecretType(kind) {
	case corev1.SecretTypeServiceAccountToken:
		if u.GetAnnotations()[corev1.ServiceAccountNameKey] == "" {
			errs = append(errs, field.Required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), ""))
		}
	case corev1.SecretTypeBasicAuth:
		_, user := data[corev1.BasicAuthUsernameKey]
		_, password := data[corev1.BasicAuthPasswordKey]
		if !user && !password {
			errs = append(errs, field.Required(path, fmt.Sprintf("a Secret of type %s has %s or %s", kind, corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)))
		}
	case corev1.SecretTypeDockercfg, corev1.SecretTypeDockerConfigJson:
		for _, key := range secretKeys[kind] {
			text, _ := data[key].(string)
			decoded, err := base64.StdEncoding.DecodeString(text)
			if err == nil && len(decoded) > 0 && !json.Valid(decoded) {
				errs = append(errs, field.Invalid(path.Key(key), "(hidden)", "must be valid JSON"))
			}
		}
	}
	return errs
}

func secretColumns() []column {
	return []column{
		nameColumn(),
		{
			TableColumnDefinition: metav1.TableColumnDefinition{Name: "Type", Type: "string", Description: "What the data is for."},
			cell:                  func(obj map[string]any, _ time.Time) any { return obj["type"] },
		},
		{
			TableColumnDefinition: metav1.TableColumnDefinition{Name: "Data", Type: "integer", Description: "The number of values."},
			cell: func(obj map[string]any, _ time.Time) any {
				data, _ := obj["data"].(map[string]any)
				return int64(len(data))
			},
		},
		ageColumn(),
	}
}
