package apiserver_test

import (
	"context"
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/csaupgrade"

	"sandboxd.dev/sandboxd/apiserver"
)

var sandboxResource = schema.GroupVersionResource{Group: "sandboxd.dev", Version: "v1", Resource: "sandboxes"}

// TestTypedClient uses client-go's clients of the core kinds in both of their
// encodings.
func TestTypedClient(t *testing.T) {
	for _, media := range []string{"application/vnd.kubernetes.protobuf", "application/json"} {
		t.Run(media, func(t *testing.T) {
			s := newServer(t)
			config := rest.CopyConfig(s.LoopbackConfig())
			config.ContentType, config.AcceptContentTypes = media, media+",application/json"
			c, err := kubernetes.NewForConfig(config)
			if err != nil {
				t.Fatal(err)
			}
			typedNamespaced(t, s, c)
			typedLeases(t, c)
			typedEvents(t, c)
		})
	}
}

func typedNamespaced(t *testing.T, s *apiserver.Server, c kubernetes.Interface) {
	ctx := t.Context()
	if _, err := c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	all := c.CoreV1().Secrets("n")
	w, err := all.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	made, err := all.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "s-"}, StringData: map[string]string{"a": "b"}}, metav1.CreateOptions{FieldManager: "m"})
	if err != nil || string(made.Data["a"]) != "b" {
		t.Fatalf("made %v: %v", made, err)
	}
	if e := <-w.ResultChan(); e.Type != "ADDED" || e.Object.(*corev1.Secret).Name != made.Name {
		t.Errorf("the event is %v", e)
	}
	stale := made.DeepCopy()
	made.Data["c"] = []byte("d")
	if made, err = all.Update(ctx, made, metav1.UpdateOptions{}); err != nil || string(made.Data["c"]) != "d" {
		t.Errorf("updated to %v: %v", made, err)
	}
	if _, err := all.Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("a stale update ended with %v", err)
	}
	if _, err := all.Patch(ctx, made.Name, types.StrategicMergePatchType, []byte(`{"metadata":{"finalizers":["example.com/a"]}}`), metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
	if err := all.Delete(ctx, made.Name, *metav1.NewPreconditionDeleteOptions("other")); !apierrors.IsConflict(err) {
		t.Errorf("a deletion of another one ended with %v", err)
	}
	if _, err := all.Patch(ctx, made.Name, types.StrategicMergePatchType, []byte(`{"metadata":{"$deleteFromPrimitiveList/finalizers":["example.com/a"]}}`), metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
	policy := metav1.DeletePropagationForeground
	if err := all.Delete(ctx, made.Name, metav1.DeleteOptions{PropagationPolicy: &policy, Preconditions: &metav1.Preconditions{UID: &made.UID}}); err != nil {
		t.Error(err)
	}
	a := api{t: t, handler: s.Handler()}
	a.gone("/api/v1/namespaces/n/secrets/" + made.Name)
	if _, err := all.Get(ctx, made.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("what is deleted is read with %v", err)
	}
	maps := c.CoreV1().ConfigMaps("n")
	if _, err := maps.Apply(ctx, applycorev1.ConfigMap("c", "n").WithData(map[string]string{"a": "b"}), metav1.ApplyOptions{FieldManager: "git"}); err != nil {
		t.Error(err)
	}
	_, err = maps.Apply(ctx, applycorev1.ConfigMap("c", "n").WithData(map[string]string{"a": "c"}), metav1.ApplyOptions{FieldManager: "other"})
	if !apierrors.IsConflict(err) || len(err.(apierrors.APIStatus).Status().Details.Causes) != 1 {
		t.Errorf("a conflict ended with %v", err)
	}
	if err := maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "!a"}); err != nil {
		t.Error(err)
	}
	if list, err := maps.List(ctx, metav1.ListOptions{Limit: 1}); err != nil || len(list.Items) != 0 {
		t.Errorf("left are %v: %v", list, err)
	}
	if err := c.CoreV1().Namespaces().Delete(ctx, "n", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	a.gone(namespaces + "/n")
}

func typedLeases(t *testing.T, c kubernetes.Interface) {
	ctx := t.Context()
	all := c.CoordinationV1().Leases("default")
	holder, seconds := "me", int32(15)
	lease, err := all.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "l"}, Spec: coordinationv1.LeaseSpec{
		HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &metav1.MicroTime{Time: time.Now()},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	other := lease.DeepCopy()
	lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now().Add(time.Second)}
	if lease, err = all.Update(ctx, lease, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	you := "you"
	other.Spec.HolderIdentity = &you
	if _, err := all.Update(ctx, other, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("two took the lease: %v", err)
	}
	other.ResourceVersion = ""
	if _, err := all.Update(ctx, other, metav1.UpdateOptions{}); err == nil {
		t.Error("a lease was taken without saying from which version")
	}
	patched, err := all.Patch(ctx, "l", types.MergePatchType, []byte(`{"spec":{"holderIdentity":"you"}}`), metav1.PatchOptions{})
	if err != nil || *patched.Spec.HolderIdentity != "you" || !patched.Spec.RenewTime.Equal(lease.Spec.RenewTime) {
		t.Errorf("patched to %v: %v", patched, err)
	}
}

func typedEvents(t *testing.T, c kubernetes.Interface) {
	ctx := t.Context()
	made, err := c.EventsV1().Events("default").Create(ctx, &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e"}, EventTime: metav1.NowMicro(), Type: "Normal", Reason: "R", Action: "A", Note: "n",
		ReportingController: "c", ReportingInstance: "i", Regarding: corev1.ObjectReference{Kind: "Sandbox", Namespace: "default", Name: "s"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made.Series = &eventsv1.EventSeries{Count: 2, LastObservedTime: metav1.NowMicro()}
	raw, err := json.Marshal(map[string]any{"series": made.Series})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.EventsV1().Events("default").Patch(ctx, "e", types.StrategicMergePatchType, raw, metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
	list, err := c.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=s"})
	if err != nil || len(list.Items) != 1 || list.Items[0].Message != "n" || list.Items[0].Series.Count != 2 {
		t.Errorf("the events are %v: %v", list, err)
	}
}

// TestDynamicClient applies, with conflicts, to the object and its status.
func TestDynamicClient(t *testing.T) {
	ctx := t.Context()
	c, err := dynamic.NewForConfig(newServer(t).LoopbackConfig())
	if err != nil {
		t.Fatal(err)
	}
	all := c.Resource(sandboxResource).Namespace("default")
	one := sandbox("one")
	if _, err := all.Apply(ctx, "one", one, metav1.ApplyOptions{FieldManager: "git"}); err != nil {
		t.Fatal(err)
	}
	if _, err := all.Apply(ctx, "one", with(sandbox("one"), "256Mi", "spec", "memory"), metav1.ApplyOptions{FieldManager: "other"}); !apierrors.IsConflict(err) {
		t.Errorf("a conflict ended with %v", err)
	}
	got, err := all.Apply(ctx, "one", with(sandbox("one"), "256Mi", "spec", "memory"), metav1.ApplyOptions{FieldManager: "other", Force: true, DryRun: []string{"All"}})
	if memory, _, _ := unstructured.NestedString(got.Object, "spec", "memory"); err != nil || memory != "256Mi" {
		t.Errorf("a forced apply made %v: %v", got, err)
	}
	status := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "sandboxd.dev/v1", "kind": "Sandbox", "metadata": map[string]any{"name": "one"}, "status": map[string]any{"phase": "Running"},
	}}
	got, err = all.ApplyStatus(ctx, "one", status, metav1.ApplyOptions{FieldManager: "controller"})
	if memory, _, _ := unstructured.NestedString(got.Object, "spec", "memory"); err != nil || memory != "128Mi" {
		t.Errorf("applying the status made %v: %v", got, err)
	}
	list, err := all.List(ctx, metav1.ListOptions{FieldSelector: "status.phase=Running,spec.powerState=Running,spec.network.mode!=nat"})
	if err != nil || len(list.Items) != 1 || list.GetResourceVersion() == "" {
		t.Errorf("the list is %v: %v", list, err)
	}
}

// TestAppliedBefore: what kubectl apply made before is taken over by server-side
// apply as kubectl does it, so that it can remove fields later.
func TestAppliedBefore(t *testing.T) {
	ctx := t.Context()
	c, err := dynamic.NewForConfig(newServer(t).LoopbackConfig())
	if err != nil {
		t.Fatal(err)
	}
	all := c.Resource(sandboxResource).Namespace("default")
	one := sandbox("one")
	one.SetAnnotations(map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "{}"})
	made, err := all.Create(ctx, one, metav1.CreateOptions{FieldManager: "kubectl-client-side-apply"})
	if err != nil {
		t.Fatal(err)
	}
	patch, err := csaupgrade.UpgradeManagedFieldsPatch(made, sets.New("kubectl-client-side-apply"), "kubectl")
	if err != nil || patch == nil {
		t.Fatalf("the patch is %s: %v", patch, err)
	}
	// An old one is refused: the patch names the version that it is made for.
	if _, err := all.Patch(ctx, "one", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{FieldManager: "hand"}); err != nil {
		t.Fatal(err)
	}
	if _, err := all.Patch(ctx, "one", types.JSONPatchType, patch, metav1.PatchOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an old patch ended with %v", err)
	}
	if made, err = all.Get(ctx, "one", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if patch, err = csaupgrade.UpgradeManagedFieldsPatch(made, sets.New("kubectl-client-side-apply"), "kubectl"); err != nil {
		t.Fatal(err)
	}
	upgraded, err := all.Patch(ctx, "one", types.JSONPatchType, patch, metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	owners := upgraded.GetManagedFields()
	i := slices.IndexFunc(owners, func(f metav1.ManagedFieldsEntry) bool { return f.Manager == "kubectl" })
	if i < 0 || owners[i].Operation != metav1.ManagedFieldsOperationApply || len(owners) != 2 {
		t.Fatalf("the owners are %v", owners)
	}
	less := sandbox("one")
	unstructured.RemoveNestedField(less.Object, "spec", "memory")
	got, err := all.Apply(ctx, "one", less, metav1.ApplyOptions{FieldManager: "kubectl"})
	if err != nil {
		t.Fatal(err)
	}
	if _, found, _ := unstructured.NestedString(got.Object, "spec", "memory"); found || got.GetLabels()["a"] != "b" {
		t.Errorf("applying less made %v", got.Object)
	}
}

// TestMetadataClient works with metadata alone, as garbage collectors and the
// controllers of other projects do.
func TestMetadataClient(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := newServer(t)
	a := api{t: t, handler: s.Handler()}
	c, err := metadata.NewForConfig(s.LoopbackConfig())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		a.do("POST", sandboxes, with(sandbox(name), name, "metadata", "labels", "name")).want(201)
	}
	all := c.Resource(sandboxResource).Namespace("default")
	informer := metadatainformer.NewSharedInformerFactory(c, 0).ForResource(sandboxResource).Informer()
	go informer.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) || len(informer.GetStore().ListKeys()) != 2 {
		t.Fatalf("the informer has %v", informer.GetStore().ListKeys())
	}
	patched, err := all.Patch(ctx, "a", types.MergePatchType, []byte(`{"metadata":{"labels":{"more":"x"}}}`), metav1.PatchOptions{})
	if err != nil || patched.Labels["more"] != "x" {
		t.Errorf("patched to %v: %v", patched, err)
	}
	list, err := all.List(ctx, metav1.ListOptions{LabelSelector: "name=a"})
	if err != nil || len(list.Items) != 1 || !reflect.DeepEqual(list.Items[0].Labels, patched.Labels) {
		t.Errorf("the list is %v: %v", list, err)
	}
	if err := all.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "name in (a,b)"}); err != nil {
		t.Error(err)
	}
	eventually(t, "the informer sees the deletions", func() bool { return len(informer.GetStore().ListKeys()) == 0 })
}
