package apiserver_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/store"
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
	// It may just have been woken once more, and wait from a later moment on.
	eventually(t, "it is gone once it may be", func() bool {
		clock.Step(time.Minute)
		return a.get(secrets+"/child").code == 404
	})
}

// unlisted is a store that cannot list Secrets for a while.
type unlisted struct {
	store.Store
	broken atomic.Bool
}

func (u *unlisted) List(ctx context.Context, resource, namespace string) (store.Snapshot, error) {
	if resource == "secrets" && u.broken.Load() {
		return store.Snapshot{}, errors.New("the disk is slow to wake")
	}
	return u.Store.List(ctx, resource, namespace)
}

// TestGarbageScansFirst: while it is not known who has owners, no owner is let go.
func TestGarbageScansFirst(t *testing.T) {
	st := &unlisted{Store: openStore(t)}
	s := newServer(t, onStore(st))
	a := api{t: t, handler: s.Handler()}
	one := a.do("POST", sandboxes, sandbox("one")).want(201).object()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	child := ownedSecret("child", ownedBy(one))
	child.SetFinalizers([]string{"example.com/held"})
	a.do("POST", secrets, child).want(201)
	a.do("DELETE", sandboxes+"/one?propagationPolicy=Foreground", nil).want(200)

	st.broken.Store(true)
	clock := clocktesting.NewFakeClock(time.Now())
	b := newAPI(t, onStore(st), func(o *apiserver.Options) { o.Clock = clock })
	b.do("POST", sandboxes, sandbox("two")).want(201)
	b.do("DELETE", sandboxes+"/two?propagationPolicy=Foreground", nil).want(200) // which wakes the collector
	eventually(t, "the collector waits", clock.HasWaiters)
	for range 50 { // what must not happen would happen soon
		b.get(sandboxes + "/one").want(200)
		b.get(sandboxes + "/two").want(200)
		time.Sleep(5 * time.Millisecond)
	}

	st.broken.Store(false)
	clock.Step(time.Minute)
	b.gone(sandboxes + "/two")
	b.get(sandboxes + "/one").want(200) // the Secret holds it back
	b.patch(mergePatch, secrets+"/child", `{"metadata":{"finalizers":null}}`).want(200)
	b.gone(sandboxes + "/one")
}
