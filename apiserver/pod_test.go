package apiserver_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sandboxd.dev/sandboxd/apiserver"
)

const podsPath = "/api/v1/namespaces/default/pods"

// TestPods looks at a Sandbox through the Pod that shows it.
func TestPods(t *testing.T) {
	var seen string
	a := newAPI(t, func(o *apiserver.Options) {
		o.Subresources = append(o.Subresources, apiserver.Subresource{
			Resource: schema.GroupResource{Resource: "pods"}, Name: "exec", Methods: []string{http.MethodPost},
			Handler: func(w http.ResponseWriter, _ *http.Request, parent *unstructured.Unstructured) {
				seen = parent.GetKind()
				w.WriteHeader(http.StatusNoContent)
			},
		})
	})
	made := a.do(http.MethodPost, sandboxes, `{"apiVersion":"sandboxd.dev/v1","kind":"Sandbox","metadata":{"name":"x","labels":{"a":"b"},"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}","note":"kept"}},"spec":{"image":"i"}}`).want(201)
	uid, _ := made.field("metadata", "uid").(string)
	status := `{"status":{"provider":"kvm","machineID":"` + uid + `","addresses":[{"ip":"10.0.0.2"}],"restarts":2,"conditions":[` +
		`{"type":"PoweredOn","status":"True","reason":"Running","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"},` +
		`{"type":"Ready","status":"True","reason":"Ready","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`
	a.do(http.MethodPatch, sandboxes+"/x/status", status, "Content-Type", "application/merge-patch+json").want(200)

	var pod corev1.Pod
	if err := json.Unmarshal(a.get(podsPath+"/x").want(200).body, &pod); err != nil {
		t.Fatal(err)
	}
	owner := pod.OwnerReferences
	if len(owner) != 1 || string(owner[0].UID) != uid || owner[0].Kind != "Sandbox" || owner[0].Controller == nil || !*owner[0].Controller || string(pod.UID) == uid || pod.UID == "" {
		t.Errorf("the pod %s belongs to %+v", pod.UID, owner)
	}
	if pod.Status.Phase != corev1.PodRunning || pod.Status.PodIP != "10.0.0.2" || pod.Spec.NodeName != "kvm" || len(pod.Spec.Containers) != 1 || pod.Spec.Containers[0].Name != "guest" {
		t.Errorf("the pod is %+v", pod)
	}
	if c := pod.Status.ContainerStatuses; len(c) != 1 || !c[0].Ready || c[0].RestartCount != 2 {
		t.Errorf("the container is %+v", c)
	}
	if pod.Labels["a"] != "b" || pod.Annotations["note"] != "kept" || len(pod.Annotations) != 1 || len(pod.Finalizers) != 0 {
		t.Errorf("the pod's metadata is %+v", pod.ObjectMeta)
	}
	for query, n := range map[string]int{
		"labelSelector=a%3Db": 1, "labelSelector=a%3Dc": 0, "fieldSelector=status.phase%3DRunning": 1, "fieldSelector=status.phase%3DPending": 0,
		"fieldSelector=spec.nodeName%3Dkvm": 1, "fieldSelector=metadata.name%3Dx": 1, "fieldSelector=metadata.name%3Dy": 0,
	} {
		if items, _ := a.get(podsPath+"?"+query).want(200).field("items").([]any); len(items) != n {
			t.Errorf("%s finds %d pods", query, len(items))
		}
	}
	for _, method := range []string{http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if got := a.do(method, podsPath+"/x", `{}`).want(405).field("message"); !strings.Contains(got.(string), "change or delete the Sandbox") {
			t.Errorf("%s is refused by %q", method, got)
		}
	}
	a.do(http.MethodPost, podsPath, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"y"}}`).want(405)
	a.do(http.MethodDelete, podsPath, ``).want(405)
	a.do(http.MethodPost, podsPath+"/x/exec", ``).want(204)
	if seen != "Sandbox" {
		t.Errorf("a subresource is given a %q", seen)
	}
	a.get(podsPath + "/y").want(404)
}
