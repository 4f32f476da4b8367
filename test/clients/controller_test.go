package clients_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/test/daemon"
)

const (
	teamLabel = "example.org/team"
	finalizer = "example.org/teams"
	indexName = ".spec.image"
)

// teams gives every namespace that is a team's a sandbox and a secret:
//
//	Namespace with the label ─▶ finalizer ─▶ Sandbox and Secret, applied and owned ─▶ condition in its status
//	                        its deletion ─▶ counted as seen off ─▶ finalizer removed
//
// It is written as the documentation of controller-runtime has it.
type teams struct {
	client.Client
	events events.EventRecorder
	old    record.EventRecorder
}

// Reconcile implements reconcile.Reconciler.
func (r *teams) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	var team corev1.Namespace
	if err := r.Get(ctx, request.NamespacedName, &team); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if !team.DeletionTimestamp.IsZero() {
		if controllerutil.RemoveFinalizer(&team, finalizer) {
			r.events.Eventf(&team, nil, corev1.EventTypeNormal, "SeenOff", "SeeOff", "team %s goes", team.Name)
			return reconcile.Result{}, client.IgnoreNotFound(r.Update(ctx, &team))
		}
		return reconcile.Result{}, nil
	}
	if controllerutil.AddFinalizer(&team, finalizer) {
		r.old.Eventf(&team, corev1.EventTypeNormal, "Welcomed", "team %s comes", team.Name)
		return reconcile.Result{}, r.Update(ctx, &team)
	}
	for _, child := range children(&team) {
		if err := controllerutil.SetControllerReference(&team, child, r.Scheme()); err != nil {
			return reconcile.Result{}, err
		}
		if err := r.Apply(ctx, client.ApplyConfigurationFromUnstructured(child), client.FieldOwner("teams"), client.ForceOwnership); err != nil {
			return reconcile.Result{}, err
		}
	}
	var indexed v1.SandboxList
	if err := r.List(ctx, &indexed, client.InNamespace(team.Name), client.MatchingFields{indexName: "none"}); err != nil {
		return reconcile.Result{}, err
	}
	base := team.DeepCopy()
	team.Status.Conditions = []corev1.NamespaceCondition{{
		Type: "Equipped", Status: corev1.ConditionTrue, Reason: "Equipped", Message: fmt.Sprintf("%d sandboxes", len(indexed.Items)),
		LastTransitionTime: metav1.NewTime(team.CreationTimestamp.Time),
	}}
	return reconcile.Result{}, r.Status().Patch(ctx, &team, client.MergeFrom(base))
}

// children are what a team gets.
func children(team *corev1.Namespace) []*unstructured.Unstructured {
	sandbox := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "sandboxd.dev/v1", "kind": "Sandbox",
		"metadata": map[string]any{"name": "desk", "namespace": team.Name},
		"spec":     map[string]any{"image": "none", "powerState": "Stopped"},
	}}
	secret := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret",
		"metadata":   map[string]any{"name": "key", "namespace": team.Name},
		"stringData": map[string]any{"team": team.Labels[teamLabel]},
	}}
	return []*unstructured.Unstructured{sandbox, secret}
}

// start runs the program until the test ends.
func start(t *testing.T, d *daemon.Daemon) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	must(t, clientgoscheme.AddToScheme(scheme))
	must(t, v1.AddToScheme(scheme))
	m, err := manager.New(d.REST(), manager.Options{Scheme: scheme, Metrics: server.Options{BindAddress: "0"}, Logger: logr.Discard()})
	must(t, err)
	must(t, m.GetFieldIndexer().IndexField(t.Context(), &v1.Sandbox{}, indexName, func(o client.Object) []string {
		return []string{o.(*v1.Sandbox).Spec.Image}
	}))
	ours, err := predicate.LabelSelectorPredicate(metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: teamLabel, Operator: metav1.LabelSelectorOpExists}}})
	must(t, err)
	r := &teams{Client: m.GetClient(), events: m.GetEventRecorder("teams"), old: m.GetEventRecorderFor("teams")} //nolint:staticcheck // programs use the old one too
	must(t, builder.ControllerManagedBy(m).
		For(&corev1.Namespace{}, builder.WithPredicates(ours)).
		Owns(&v1.Sandbox{}).
		Owns(&corev1.Secret{}, builder.OnlyMetadata).
		Complete(r))
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- m.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the manager ended with %v", err)
		}
	})
	direct, err := client.New(d.REST(), client.Options{Scheme: scheme})
	must(t, err)
	return direct
}

// TestController: an unmodified controller-runtime program does its work through the
// death of the daemon, without being started anew.
func TestController(t *testing.T) {
	d := daemon.Start(t)
	c := start(t, d)
	const each = 5
	var names []string
	welcome := func(round int) {
		for i := range each {
			name := fmt.Sprintf("team-%d-%d", round, i)
			names = append(names, name)
			team := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{teamLabel: name}}}
			acknowledged(t, "create "+name, func(ctx context.Context) error { return c.Create(ctx, team.DeepCopy()) }, apierrors.IsAlreadyExists)
		}
	}
	equipped := func() error {
		for _, name := range names {
			if err := isEquipped(t.Context(), c, name); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	}
	welcome(0)
	eventually(t, "all teams are equipped", equipped)

	// What it owns comes back, whoever took it: of secrets it watches the metadata only.
	must(t, c.Delete(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: names[0], Name: "key"}}))
	must(t, c.Delete(t.Context(), &v1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: names[1], Name: "desk"}}))
	eventually(t, "what was deleted is back", equipped)

	for round, end := range []func(){d.Kill, d.Stop} {
		welcome(2*round + 1)
		end()
		d.Resume()
		welcome(2*round + 2)
		must(t, c.DeleteAllOf(t.Context(), &corev1.Secret{}, client.InNamespace(names[2])))
		eventually(t, "all teams are equipped after the daemon's death", equipped)
	}

	for _, name := range names[:each] {
		must(t, c.Delete(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	}
	eventually(t, "teams that are deleted go with all they have", func() error {
		for _, name := range names[:each] {
			if err := c.Get(t.Context(), client.ObjectKey{Name: name}, &corev1.Namespace{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%s is there: %w", name, err)
			}
		}
		return nil
	})
	names = names[each:]
	must(t, equipped())
	eventually(t, "it said so in both forms of events", func() error {
		for _, reason := range []string{"Welcomed", "SeenOff"} {
			var said corev1.EventList
			if err := c.List(t.Context(), &said, &client.ListOptions{FieldSelector: fields.OneTermEqualSelector("reason", reason)}); err != nil {
				return err
			}
			if len(said.Items) == 0 {
				return errors.New("there is no event " + reason)
			}
		}
		return nil
	})
}

// isEquipped tells whether a team has what it should have, owned as it should be.
func isEquipped(ctx context.Context, c client.Client, name string) error {
	var team corev1.Namespace
	if err := c.Get(ctx, client.ObjectKey{Name: name}, &team); err != nil {
		return err
	}
	if !controllerutil.ContainsFinalizer(&team, finalizer) {
		return errors.New("it has no finalizer")
	}
	if len(team.Status.Conditions) != 1 || team.Status.Conditions[0].Type != "Equipped" {
		return fmt.Errorf("its conditions are %v", team.Status.Conditions)
	}
	var secret corev1.Secret
	if err := c.Get(ctx, client.ObjectKey{Namespace: name, Name: "key"}, &secret); err != nil {
		return err
	}
	var sandbox v1.Sandbox
	if err := c.Get(ctx, client.ObjectKey{Namespace: name, Name: "desk"}, &sandbox); err != nil {
		return err
	}
	switch {
	case string(secret.Data["team"]) != name:
		return fmt.Errorf("its secret holds %q", secret.Data["team"])
	case !metav1.IsControlledBy(&secret, &team) || !metav1.IsControlledBy(&sandbox, &team):
		return errors.New("it does not own what it has")
	case !sandbox.DeletionTimestamp.IsZero() || !secret.DeletionTimestamp.IsZero():
		return errors.New("what it has is being deleted")
	}
	return nil
}
