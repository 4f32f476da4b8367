package gitops

import (
	"errors"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// TestWaitsForImage: a sandbox that is refused for its image alone waits, and nothing else
// does that is refused.
func TestWaitsForImage(t *testing.T) {
	invalid := func(list ...*field.Error) error {
		return apierrors.NewInvalid(v1.GroupVersion.WithKind("Sandbox").GroupKind(), "web", list)
	}
	spec := field.NewPath("spec")
	deleted := field.Forbidden(spec.Child("image"), `GoldenImage "tiny" is being deleted`)
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"nothing":               {nil, false},
		"no status":             {errors.New("no route to host"), false},
		"its image":             {invalid(deleted), true},
		"its image and another": {invalid(deleted, field.Forbidden(spec.Child("sharedFolders"), "/etc is not below")), false},
		"a folder":              {invalid(field.Forbidden(spec.Child("sharedFolders"), "/etc is not below")), false},
		"no image":              {invalid(field.Required(spec.Child("image"), "")), false},
		"not allowed":           {apierrors.NewForbidden(v1.GroupVersion.WithResource("sandboxes").GroupResource(), "web", errors.New("no")), false},
	} {
		reason, waits := waitsForImage(c.err)
		if waits != c.want || waits && !strings.HasSuffix(reason, `: GoldenImage "tiny" is being deleted`) {
			t.Errorf("%s: waits %v (%s)", name, waits, reason)
		}
	}
}
