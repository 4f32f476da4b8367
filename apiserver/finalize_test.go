package apiserver_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func TestFinalizeNamespace(t *testing.T) {
	s := newServer(t)
	a := api{t: t, handler: s.Handler()}
	const inside = "/apis/sandboxd.dev/v1/namespaces/n/sandboxes"
	n := a.do("POST", namespaces, namespace("n")).want(201).object()
	finalize := func(more string) answer {
		return a.do("PUT", namespaces+"/n/finalize", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n"`+more+`}}`)
	}
	finalize("").refused(409, "Conflict", "the finalizer kubernetes stays until the namespace is deleted")
	held := sandbox("held")
	held.SetFinalizers([]string{"example.com/a"})
	a.do("POST", inside, held).want(201)
	a.do("PUT", namespaces+"/n/finalize", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n"},"spec":{"finalizers":["kubernetes","example.com/b"]}}`).want(200)
	if got := a.get(namespaces + "/n").want(200); len(got.field("spec", "finalizers").([]any)) != 2 {
		t.Errorf("the namespace is %s", got.body)
	}
	a.do("DELETE", namespaces+"/n", nil).want(200)
	finalize("").refused(409, "Conflict", "stays while there are objects inside, such as 1 sandboxes.sandboxd.dev")
	finalize(`,"resourceVersion":"`+n.GetResourceVersion()+`"`).refused(409, "Conflict")
	a.do("POST", namespaces+"/n/finalize", n).refused(405, "MethodNotAllowed")
	a.do("PUT", sandboxes+"/x/finalize", "{}").refused(404, "NotFound")
	a.patch(mergePatch, inside+"/held", `{"metadata":{"finalizers":null}}`).want(200)
	// The server takes its own finalizer away; the other one is taken away by
	// whom it belongs to, here with client-go and so in protobuf.
	config := rest.CopyConfig(s.LoopbackConfig())
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	core, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server's own finalizer is gone", func() bool {
		got, err := core.CoreV1().Namespaces().Get(t.Context(), "n", metav1.GetOptions{})
		return err == nil && len(got.Spec.Finalizers) == 1 && got.Spec.Finalizers[0] == "example.com/b"
	})
	if _, err := core.CoreV1().Namespaces().Finalize(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	a.gone(namespaces + "/n")
}
