package admission

import (
	"context"
	"fmt"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
)

// passwordsLent refuses an image whose Secrets its writer may not read. The daemon
// hands the passwords in them to guests of the image, so who writes it would see
// them. Each change of the spec is judged: it may lead them to another guest.
func passwordsLent(ctx context.Context, a apiserver.Attributes) error {
	var now, before v1.GoldenImage
	if err := decode(a, &now, &before); err != nil {
		return err
	}
	if a.OldObject != nil && reflect.DeepEqual(now.Spec, before.Spec) {
		return nil
	}
	var errs field.ErrorList
	lend := func(path *field.Path, ref v1.SecretReference) {
		namespace := ref.Namespace
		if namespace == "" {
			namespace = "default"
		}
		read := apiserver.Action{Verb: "get", Version: "v1", Resource: "secrets", Namespace: namespace, Name: ref.Name}
		if a.Authorize(ctx, read) != nil {
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("user %q may not read Secret %s/%s, and so not have guests use it", a.User.Name, namespace, ref.Name)))
		}
	}
	if ref := now.Spec.Guest.PasswordSecretRef; ref != nil {
		lend(field.NewPath("spec", "guest", "passwordSecretRef"), *ref)
	}
	if iso := now.Spec.Source.ISO; iso != nil {
		lend(field.NewPath("spec", "source", "iso", "unattended", "passwordSecretRef"), iso.Unattended.PasswordSecretRef)
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewForbidden(goldenImages, a.Name, errs.ToAggregate())
}
