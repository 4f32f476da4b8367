package apiserver_test

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"sandboxd.dev/sandboxd/apiserver"
)

// TestGarbageInUse: what may not be deleted yet is tried again after a while,
// not at once and for ever.
func TestGarbageInUse(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	var tries atomic.Int64
	var free atomic.Bool
	a := newAPI(t, func(o *apiserver.Options) {
		o.Clock = clock
		o.Admission = []apiserver.Admission{admission(func(_ context.Context, a apiserver.Attributes) error {
			if a.Operation != apiserver.Delete || a.Name != "child" {
				return nil
			}
			tries.Add(1)
			if free.Load() {
				return nil
			}
			return &apierrors.StatusError{ErrStatus: metav1.Status{
				Status: metav1.StatusFailure, Code: http.StatusConflict, Reason: metav1.StatusReasonConflict, Message: "it is in use",
			}}
		})}
	})
	one := a.do("POST", sandboxes, sandbox("one")).want(201).object()
	a.do("POST", secrets, ownedSecret("child", ownedBy(one))).want(201)
	a.do("DELETE", sandboxes+"/one", nil).want(200)
	eventually(t, "the deletion was tried", func() bool { return tries.Load() > 0 })
	// The collector waits for its time: it is the only one that does.
	eventually(t, "the collector waits", clock.HasWaiters)
	if n := tries.Load(); n > 2 {
		t.Errorf("it was tried %d times before the time had come", n)
	}
	free.Store(true)
	clock.Step(time.Minute)
	a.gone(secrets + "/child")
}
