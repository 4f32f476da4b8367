package clients_test

import (
	"fmt"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"

	"sandboxd.dev/sandboxd/test/daemon"
)

// TestTypedClients: client-go's typed clients, in JSON and in protobuf as most programs
// in a cluster are configured.
func TestTypedClients(t *testing.T) {
	d := daemon.Start(t)
	for name, accept := range map[string][2]string{
		"json":              {"application/json", ""},
		"protobuf":          {"application/vnd.kubernetes.protobuf", ""},
		"protobuf-and-json": {"application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"},
	} {
		t.Run(name, func(t *testing.T) {
			config := d.REST()
			config.ContentType, config.AcceptContentTypes = accept[0], accept[1]
			client, err := kubernetes.NewForConfig(config)
			must(t, err)
			namespace := "typed-" + name
			testNamespaces(t, client, namespace)
			testSecrets(t, client, namespace)
			testEvents(t, client, namespace)
			testLeases(t, client, namespace)
			must(t, client.CoreV1().Namespaces().Delete(t.Context(), namespace, metav1.DeleteOptions{}))
			eventually(t, "the namespace is gone", func() error {
				_, err := client.CoreV1().Namespaces().Get(t.Context(), namespace, metav1.GetOptions{})
				if apierrors.IsNotFound(err) {
					return nil
				}
				return fmt.Errorf("it is there: %w", err)
			})
		})
	}
}

func testNamespaces(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	namespaces := client.CoreV1().Namespaces()
	made, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"a": "b"}}}, metav1.CreateOptions{})
	must(t, err)
	if made.UID == "" || made.Status.Phase != corev1.NamespaceActive || made.Labels["a"] != "b" {
		t.Errorf("made %+v", made)
	}
	_, err = namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		t.Errorf("a second one: %v", err)
	}
}

func testSecrets(t *testing.T, client kubernetes.Interface, namespace string) {
	t.Helper()
	secrets := client.CoreV1().Secrets(namespace)
	events, err := secrets.Watch(t.Context(), metav1.ListOptions{})
	must(t, err)
	defer events.Stop()
	bytes := []byte{0, 1, 0xff, '\n'}
	made, err := secrets.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "s-"}, Data: map[string][]byte{"k": bytes}, StringData: map[string]string{"t": "text"}}, metav1.CreateOptions{})
	must(t, err)
	if string(made.Data["k"]) != string(bytes) || string(made.Data["t"]) != "text" || made.Type != corev1.SecretTypeOpaque || made.StringData != nil {
		t.Errorf("made %+v", made)
	}
	made.Data["k"] = []byte("second")
	_, err = secrets.Update(t.Context(), made, metav1.UpdateOptions{})
	must(t, err)
	made.Data["k"] = []byte("third")
	if _, err := secrets.Update(t.Context(), made, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an update of an old version: %v", err)
	}
	_, err = secrets.Patch(t.Context(), made.Name, types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"x":"y"}}}`), metav1.PatchOptions{})
	must(t, err)
	_, err = secrets.Apply(t.Context(), applycorev1.Secret("applied", namespace).WithStringData(map[string]string{"a": "b"}), metav1.ApplyOptions{FieldManager: "test"})
	must(t, err)
	list, err := secrets.List(t.Context(), metav1.ListOptions{LabelSelector: "x=y"})
	must(t, err)
	if len(list.Items) != 1 || string(list.Items[0].Data["k"]) != "second" {
		t.Errorf("listed %+v", list.Items)
	}
	must(t, secrets.Delete(t.Context(), made.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &made.UID}}))
	if _, err := secrets.Get(t.Context(), made.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the delete: %v", err)
	}
	must(t, secrets.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	want := []watch.EventType{watch.Added, watch.Modified, watch.Modified, watch.Added, watch.Deleted, watch.Deleted}
	for i, kind := range want {
		select {
		case event := <-events.ResultChan():
			if _, ok := event.Object.(*corev1.Secret); event.Type != kind || !ok {
				t.Fatalf("event %d is %s of %T, want %s", i, event.Type, event.Object, kind)
			}
		case <-time.After(daemon.Patience):
			t.Fatalf("event %d never comes", i)
		}
	}
}

func testEvents(t *testing.T, client kubernetes.Interface, namespace string) {
	t.Helper()
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	old := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: "old"},
		InvolvedObject: corev1.ObjectReference{Kind: "Sandbox", Namespace: namespace, Name: "one"},
		Reason:         "Tested", Message: "a message", Type: "Normal", FirstTimestamp: now, LastTimestamp: now, Count: 3,
	}
	_, err := client.CoreV1().Events(namespace).Create(t.Context(), old, metav1.CreateOptions{})
	must(t, err)
	made := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "new"},
		Regarding:  corev1.ObjectReference{Kind: "Sandbox", Namespace: namespace, Name: "one"},
		EventTime:  metav1.NowMicro(), ReportingController: "example.org/test", ReportingInstance: "one", Action: "Test",
		Reason: "Tested", Note: "a note", Type: "Warning",
	}
	_, err = client.EventsV1().Events(namespace).Create(t.Context(), made, metav1.CreateOptions{})
	must(t, err)
	as, err := client.EventsV1().Events(namespace).Get(t.Context(), "old", metav1.GetOptions{})
	must(t, err)
	if as.Note != "a message" || as.DeprecatedCount != 3 || !as.DeprecatedLastTimestamp.Equal(&now) || as.Regarding.Name != "one" {
		t.Errorf("the core event, in the new form, is %+v", as)
	}
	list, err := client.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=one,type=Warning"})
	must(t, err)
	if len(list.Items) != 1 || list.Items[0].Message != "a note" || !list.Items[0].EventTime.Time.Equal(made.EventTime.Truncate(time.Microsecond)) {
		t.Errorf("the new event, in the core form, is %+v", list.Items)
	}
}

func testLeases(t *testing.T, client kubernetes.Interface, namespace string) {
	t.Helper()
	leases := client.CoordinationV1().Leases(namespace)
	holder, seconds, now := "me", int32(15), metav1.NowMicro()
	lease, err := leases.Create(t.Context(), &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: "l"},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now},
	}, metav1.CreateOptions{})
	must(t, err)
	if *lease.Spec.HolderIdentity != holder || !lease.Spec.RenewTime.Time.Equal(now.Truncate(time.Microsecond)) {
		t.Errorf("the lease is %+v", lease.Spec)
	}
	other := "other"
	lease.Spec.HolderIdentity = &other
	_, err = leases.Update(t.Context(), lease, metav1.UpdateOptions{})
	must(t, err)
	if _, err := leases.Update(t.Context(), lease, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("a second update of the same version: %v", err)
	}
}
