package gitops

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestContents(t *testing.T) {
	read, write := metav1.Verbs{"get", "list"}, metav1.Verbs{"create"}
	inside, err := contents([]*metav1.APIResourceList{
		{GroupVersion: "v1", APIResources: []metav1.APIResource{
			{Name: "namespaces", Kind: "Namespace", Verbs: read},
			{Name: "configmaps", Kind: "ConfigMap", Namespaced: true, Verbs: read},
			{Name: "secrets", Kind: "Secret", Namespaced: true, Verbs: read},
			{Name: "events", Kind: "Event", Namespaced: true, Verbs: read},
			{Name: "pods", Kind: "Pod", Namespaced: true, Verbs: read},
			{Name: "pods/log", Kind: "Pod", Namespaced: true, Verbs: read},
			{Name: "services", Kind: "Service", Namespaced: true, Verbs: read},
		}},
		{GroupVersion: "authorization.k8s.io/v1", APIResources: []metav1.APIResource{
			{Name: "localsubjectaccessreviews", Kind: "LocalSubjectAccessReview", Namespaced: true, Verbs: write},
		}},
		{GroupVersion: "events.k8s.io/v1", APIResources: []metav1.APIResource{{Name: "events", Kind: "Event", Namespaced: true, Verbs: read}}},
		{GroupVersion: "example.org/v2", APIResources: []metav1.APIResource{{Name: "things", Kind: "Thing", Namespaced: true, Verbs: read}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range inside {
		got = append(got, k.gvr().GroupVersion().String()+"/"+k.resource)
	}
	want := []string{"v1/secrets", "sandboxd.dev/v1/sandboxes", "sandboxd.dev/v1/sandboxsnapshots", "v1/configmaps", "example.org/v2/things"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
