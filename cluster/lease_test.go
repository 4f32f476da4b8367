package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
)

// leaseServer serves one Lease.
type leaseServer struct {
	mu    sync.Mutex
	lease *coordinationv1.Lease
}

func (s *leaseServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gr := coordinationv1.Resource("leases")
	if r.Method == http.MethodGet && s.lease == nil {
		answer(w, apierrors.NewNotFound(gr, LeaseName))
		return
	}
	if r.Method != http.MethodGet {
		sent := &coordinationv1.Lease{}
		if err := json.NewDecoder(r.Body).Decode(sent); err != nil {
			answer(w, apierrors.NewBadRequest(err.Error()))
			return
		}
		version := 0
		if s.lease != nil {
			version, _ = strconv.Atoi(s.lease.ResourceVersion)
			if r.Method == http.MethodPost || sent.ResourceVersion != s.lease.ResourceVersion {
				answer(w, apierrors.NewConflict(gr, LeaseName, errors.New("changed")))
				return
			}
		}
		sent.ResourceVersion = strconv.Itoa(version + 1)
		s.lease = sent
	}
	w.Header().Set("Content-Type", "application/json")
	out := s.lease.DeepCopy()
	out.SetGroupVersionKind(coordinationv1.SchemeGroupVersion.WithKind("Lease"))
	_ = json.NewEncoder(w).Encode(out)
}

// change changes the Lease as somebody else does; nil deletes it.
func (s *leaseServer) change(f func(*coordinationv1.Lease)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f == nil {
		s.lease = nil
		return
	}
	f(s.lease)
	version, _ := strconv.Atoi(s.lease.ResourceVersion)
	s.lease.ResourceVersion = strconv.Itoa(version + 1)
}

func (s *leaseServer) holder() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease == nil || s.lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *s.lease.Spec.HolderIdentity
}

// whoever asks for the Lease of a server as an instance.
func (s *leaseServer) as(t *testing.T, instance string, waiting chan<- error) LeaseOptions {
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return LeaseOptions{
		Config: &rest.Config{Host: server.URL, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}, Namespace: Namespace, Instance: instance, Host: "host-" + instance,
		Pace: Pace{Expiry: 30 * time.Second, Patience: 20 * time.Second, Retry: 20 * time.Millisecond},
		Waiting: func(err error) {
			select {
			case waiting <- err:
			default:
			}
		},
	}
}

func TestLeaseIsLetGoOfAfterTheWork(t *testing.T) {
	s := &leaseServer{}
	err := Hold(t.Context(), s.as(t, "a", nil), func(context.Context) error {
		if got := s.holder(); got != "host-a_a" {
			t.Errorf("at work, the holder is %q", got)
		}
		return errors.New("done")
	})
	if err == nil || err.Error() != "done" {
		t.Errorf("got %v", err)
	}
	if got := s.holder(); got != "" {
		t.Errorf("after the work, the holder is %q", got)
	}
	if got := s.lease.Labels[homeLabel]; got != "a" {
		t.Errorf("it is not the instance's any more, but %q's", got)
	}
}

// TestLeaseOfAnother: a Lease is another's for as long as it exists, held or not.
func TestLeaseOfAnother(t *testing.T) {
	s := &leaseServer{}
	if err := Hold(t.Context(), s.as(t, "a", nil), func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 1)
	began, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- Hold(t.Context(), s.as(t, "b", waiting), func(context.Context) error { close(began); return nil })
	}()
	for range 3 { // it was asked for again
		if err := <-waiting; !errors.Is(err, ErrElsewhere) || !strings.Contains(err.Error(), "host-a (instance a), which is stopped now") {
			t.Errorf("waits because of %v", err)
		}
	}
	select {
	case <-began:
		t.Fatal("it works")
	default:
	}
	s.change(nil)
	<-began
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestLeaseLost: the work ends, and then Hold does, when the Lease is another's.
func TestLeaseLost(t *testing.T) {
	s := &leaseServer{}
	returned := false
	err := Hold(t.Context(), s.as(t, "a", nil), func(ctx context.Context) error {
		s.change(func(l *coordinationv1.Lease) {
			l.Labels[homeLabel] = "b"
			other := "host-b_b"
			l.Spec.HolderIdentity = &other
		})
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), ErrLost) {
			t.Errorf("the cause is %v", context.Cause(ctx))
		}
		returned = true
		return nil
	})
	if !errors.Is(err, ErrLost) || !returned {
		t.Errorf("got %v, the work returned: %v", err, returned)
	}
	if got := s.holder(); got != "host-b_b" {
		t.Errorf("the holder is %q", got)
	}
}

func TestWaitingForTheLeaseEnds(t *testing.T) {
	s := &leaseServer{}
	if err := Hold(t.Context(), s.as(t, "a", nil), func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 1)
	go func() {
		if why := <-waiting; errors.Is(why, ErrElsewhere) {
			cancel()
		}
	}()
	err := Hold(ctx, s.as(t, "b", waiting), func(context.Context) error { t.Error("it works"); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestNamespaceOfTheLease: that it is missing is said when nothing else can be, and not
// of a Lease that somebody deleted while it was renewed.
func TestNamespaceOfTheLease(t *testing.T) {
	var waits error
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, apierrors.NewNotFound(coordinationv1.Resource("leases"), LeaseName))
	}))
	defer server.Close()
	o := LeaseOptions{Config: &rest.Config{Host: server.URL}, Namespace: Namespace, Waiting: func(why error) { waits = why }}
	client, err := coordination.NewForConfig(o.Config)
	if err != nil {
		t.Fatal(err)
	}
	leases := (&homes{client, o, func() {}}).Leases(Namespace)
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: LeaseName}}
	if _, err := leases.Update(t.Context(), lease, metav1.UpdateOptions{}); !apierrors.IsNotFound(err) || strings.Contains(waits.Error(), "namespace") {
		t.Errorf("renewed: %v, waits because of %v", err, waits)
	}
	if _, err := leases.Create(t.Context(), lease, metav1.CreateOptions{}); !apierrors.IsNotFound(err) || !strings.Contains(waits.Error(), "the namespace does not exist") {
		t.Errorf("made: %v, waits because of %v", err, waits)
	}
}

func TestLabelValue(t *testing.T) {
	for host, want := range map[string]string{
		"vm": "vm", "a.example.org": "a.example.org", "-x-": "x", "bad host/ü": "bad-host", "": "",
		strings.Repeat("a", 70): strings.Repeat("a", 63),
	} {
		if got := labelValue(host); got != want {
			t.Errorf("%q: got %q, want %q", host, got, want)
		}
	}
}
