package apiserver_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
)

// patience is how long tests wait for what takes milliseconds, on a machine
// that may be busy with other things.
const patience = 3 * time.Minute

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("still not so: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// scheme knows the kinds that the tests use.
func scheme(t testing.TB) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1.AddToScheme, corev1.AddToScheme} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// newClient makes a typed client.
func newClient(t testing.TB, config *rest.Config) client.Client {
	t.Helper()
	c, err := client.New(config, client.Options{Scheme: scheme(t)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serveUnix serves on a unix socket until the returned function is called.
func serveUnix(t testing.TB, s *apiserver.Server, path string) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving ended with %v", err)
		}
	}
}

// unixConfig reaches a server behind a unix socket.
func unixConfig(path string) *rest.Config {
	return &rest.Config{
		Host: "http://sandboxd",
		QPS:  -1,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}
}

// echo is a reconciler of the kind that sandboxd has: finalizer first, status
// by patch and by apply, events.
type echo struct {
	client.Client
	mgr ctrl.Manager
}

const echoFinalizer = "test.sandboxd.dev/echo"

func (e echo) Reconcile(ctx context.Context, rq ctrl.Request) (ctrl.Result, error) {
	var s v1.Sandbox
	if err := e.Get(ctx, rq.NamespacedName, &s); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !s.DeletionTimestamp.IsZero() {
		if controllerutil.RemoveFinalizer(&s, echoFinalizer) {
			return ctrl.Result{}, client.IgnoreNotFound(e.Update(ctx, &s))
		}
		return ctrl.Result{}, nil
	}
	if controllerutil.AddFinalizer(&s, echoFinalizer) {
		return ctrl.Result{}, e.Update(ctx, &s)
	}
	label := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "sandboxd.dev/v1", "kind": "Sandbox",
		"metadata": map[string]any{"name": s.Name, "namespace": s.Namespace, "labels": map[string]any{"echo": string(s.Spec.PowerState)}},
		"spec":     map[string]any{"image": s.Spec.Image},
	}}
	if err := e.Apply(ctx, client.ApplyConfigurationFromUnstructured(label), client.FieldOwner("echo"), client.ForceOwnership); err != nil {
		return ctrl.Result{}, err
	}
	before := s.DeepCopy()
	s.Status.ObservedGeneration = s.Generation
	s.Status.Phase = v1.SandboxRunning
	changed := meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{
		Type: v1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1.ReasonAsSpecified,
		Message: string(s.Spec.PowerState), ObservedGeneration: s.Generation,
	})
	if changed {
		e.mgr.GetEventRecorder("echo").Eventf(&s, nil, corev1.EventTypeNormal, "Echoed", "Echo", "is %s", s.Spec.PowerState)
	}
	return ctrl.Result{}, e.Status().Patch(ctx, &s, client.MergeFrom(before))
}

// startManager runs an unmodified manager with leader election.
func startManager(t testing.TB, cfg *rest.Config) (stop func()) {
	t.Helper()
	skip := true
	lease, renew := 2*patience, patience // it may take time until the server is back
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme:                        scheme(t),
		Metrics:                       server.Options{BindAddress: "0"},
		LeaderElection:                true,
		LeaderElectionID:              "echo",
		LeaderElectionNamespace:       "default",
		LeaseDuration:                 &lease,
		RenewDeadline:                 &renew,
		LeaderElectionReleaseOnCancel: true,
		Controller:                    config.Controller{SkipNameValidation: &skip},
	})
	if err != nil {
		t.Fatal(err)
	}
	err = ctrl.NewControllerManagedBy(mgr).For(&v1.Sandbox{}).
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}).
		Complete(echo{Client: mgr.GetClient(), mgr: mgr})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the manager ended with %v", err)
		}
	}
}

// TestManager runs a controller-runtime manager over a unix socket while the
// server is restarted on the same store.
func TestManager(t *testing.T) {
	ctx := context.Background()
	st := openStore(t)
	path := filepath.Join(t.TempDir(), "api.sock")
	start := func() (stop func()) {
		s, err := apiserver.New(ctx, apiserver.Options{Store: st, CRDs: v1.CRDs})
		if err != nil {
			t.Fatal(err)
		}
		stopServing := serveUnix(t, s, path)
		return func() { stopServing(); _ = s.Close() }
	}
	stopServer := start()
	stopManager := startManager(t, unixConfig(path))
	defer func() { stopManager(); stopServer() }()
	c := newClient(t, unixConfig(path))

	ready := func(name, message string) func() bool {
		return func() bool {
			var s v1.Sandbox
			if err := c.Get(ctx, client.ObjectKey{Namespace: "default", Name: name}, &s); err != nil {
				return false
			}
			cond := meta.FindStatusCondition(s.Status.Conditions, v1.ConditionReady)
			return cond != nil && cond.Message == message && s.Labels["echo"] == message && s.Status.ObservedGeneration == s.Generation
		}
	}
	one := &v1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "one"}, Spec: v1.SandboxSpec{Image: "tiny"}}
	if err := c.Create(ctx, one); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one is ready", ready("one", "Running"))
	eventually(t, "an event tells of it", func() bool {
		var events corev1.EventList
		if err := c.List(ctx, &events, client.InNamespace("default"), client.MatchingFields{"involvedObject.name": "one"}); err != nil {
			t.Fatal(err)
		}
		return len(events.Items) > 0 && events.Items[0].Reason == "Echoed" && events.Items[0].Message == "is Running"
	})

	// Across a restart the manager's watches go on by themselves.
	stopServer()
	stopServer = start()
	eventually(t, "two was created", func() bool {
		two := &v1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "two"}, Spec: v1.SandboxSpec{Image: "tiny"}}
		return c.Create(ctx, two) == nil
	})
	eventually(t, "two is ready", ready("two", "Running"))

	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(one), one); err != nil {
			return err
		}
		one.Spec.PowerState = v1.PowerStopped
		return c.Update(ctx, one)
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "one is stopped", ready("one", "Stopped"))

	if err := c.Delete(ctx, one); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one is gone", func() bool {
		var list v1.SandboxList
		if err := c.List(ctx, &list); err != nil {
			t.Fatal(err)
		}
		return len(list.Items) == 1 && list.Items[0].Name == "two"
	})
}
