package gitops

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"sandboxd.dev/sandboxd/brief"
	"sandboxd.dev/sandboxd/manifest"
)

// What events say.
type tone struct{ kind, reason, action string }

var (
	warning = tone{corev1.EventTypeWarning, "ManifestsFailing", "Apply"}
	normal  = tone{corev1.EventTypeNormal, "ManifestsApplied", "Apply"}
)

// event records an event on an object that there is, or on the directory, which is
// no object but has a name. Events are for people who look: one that cannot be
// written is in the log all the same.
func (s *Source) event(ctx context.Context, id manifest.Identity, t tone, text string) {
	about := corev1.ObjectReference{Kind: "Manifests", Name: s.id, Namespace: metav1.NamespaceDefault}
	if record, ok := s.records[id]; ok {
		k, _ := kindOf(id.Kind)
		about = corev1.ObjectReference{
			APIVersion: k.GroupVersion().String(), Kind: k.Kind, Namespace: id.Namespace, Name: id.Name, UID: record.UID,
		}
	}
	namespace := about.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	now := metav1.NewTime(time.Now())
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&corev1.Event{
		TypeMeta:       metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta:     metav1.ObjectMeta{GenerateName: "manifests-", Namespace: namespace},
		InvolvedObject: about, Type: t.kind, Reason: t.reason, Message: brief.Text(text, longest), Action: t.action,
		Source: corev1.EventSource{Component: FieldManager}, ReportingController: FieldManager, ReportingInstance: FieldManager,
		FirstTimestamp: now, LastTimestamp: now, EventTime: metav1.NewMicroTime(now.Time), Count: 1,
	})
	if err == nil {
		_, err = s.objects.Resource(corev1.SchemeGroupVersion.WithResource("events")).Namespace(namespace).
			Create(ctx, &unstructured.Unstructured{Object: object}, metav1.CreateOptions{})
	}
	if err != nil {
		s.o.Logger.V(1).Info("An event could not be written", "note", text, "reason", err.Error())
	}
}
