package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

// LeaseName is the name of the Lease of the host that serves a cluster.
const LeaseName = "sandboxd"

// homeLabel says which instance a Lease belongs to, whether it is held or not, and
// hostLabel where that is.
const (
	homeLabel = "sandboxd.dev/instance"
	hostLabel = "sandboxd.dev/host"
)

// Pace of the Lease.
type Pace struct {
	// Expiry is how long a Lease counts as held that is not renewed.
	Expiry time.Duration
	// Patience is how long the holder tries to renew it before it gives up.
	Patience time.Duration
	// Retry is how often it is renewed, or asked for.
	Retry time.Duration
}

// DefaultPace is slow: nobody takes over by himself, so nothing is won by haste, and
// an API server may be restarted meanwhile.
var DefaultPace = Pace{Expiry: 60 * time.Second, Patience: 45 * time.Second, Retry: 2 * time.Second}

// LeaseOptions say whose a Lease is to be.
type LeaseOptions struct {
	Config *rest.Config
	// Namespace of the Lease.
	Namespace string
	// Instance is this host's, and Host a name for it.
	Instance, Host string
	Pace           Pace
	// Waiting is told what keeps the Lease from being held or renewed, each time, and
	// nil when it was.
	Waiting func(why error)
}

// ErrLost is why the work ended of a host that could not renew its Lease.
var ErrLost = errors.New("the Lease was lost")

// Hold waits for the Lease, and then works until work returns. The context of work
// ends with ErrLost as its cause when the Lease cannot be kept; Hold returns ErrLost
// then, once work has returned. The Lease is let go of only after work has returned,
// so that no two hosts work at a time. It stays this instance's.
func Hold(ctx context.Context, o LeaseOptions, work func(context.Context) error) error {
	client, err := coordination.NewForConfig(o.Config)
	if err != nil {
		return err
	}
	electing, letGo := context.WithCancel(klog.NewContext(context.WithoutCancel(ctx), logr.Discard()))
	defer letGo()
	held, ended := make(chan struct{}), make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: LeaseName},
			Client: &homes{client, o, func() {
				select {
				case <-held:
					letGo() // at once: the other may be at work already
				default:
				}
			}},
			LockConfig: resourcelock.ResourceLockConfig{Identity: o.Host + "_" + o.Instance},
			Labels:     map[string]string{homeLabel: o.Instance, hostLabel: labelValue(o.Host)},
		},
		Name: LeaseName, ReleaseOnCancel: true,
		LeaseDuration: o.Pace.Expiry, RenewDeadline: o.Pace.Patience, RetryPeriod: o.Pace.Retry,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { close(held) },
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("lease %s/%s: %w", o.Namespace, LeaseName, err)
	}
	go func() {
		defer close(ended)
		elector.Run(electing)
	}()
	select {
	case <-held:
	case <-ctx.Done():
		letGo()
		<-ended
		return ctx.Err()
	}
	working, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-ended:
			stop(ErrLost)
		case <-working.Done():
		}
	}()
	err = work(working)
	if errors.Is(context.Cause(working), ErrLost) {
		err = ErrLost
	}
	letGo()
	<-ended
	return err
}

// labelValue makes what a label may say of a host's name.
func labelValue(host string) string {
	value := strings.Map(func(r rune) rune {
		if r < 128 && (unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '.') {
			return r
		}
		return '-'
	}, host)
	const most = 63
	return strings.Trim(value[:min(len(value), most)], "-.")
}

// ErrElsewhere is wrapped by why a host waits that another one is before.
var ErrElsewhere = errors.New("the cluster belongs to another host")

// homes are Leases that belong to one instance for as long as they exist.
type homes struct {
	coordination.LeasesGetter
	o LeaseOptions
	// foreign is told that the Lease is another's.
	foreign func()
}

// elsewhere says of a Lease that is another instance's why this one waits.
func (h *homes) elsewhere(lease *coordinationv1.Lease) error {
	home := lease.Labels[homeLabel]
	if home == "" || home == h.o.Instance {
		return nil
	}
	does := "which is stopped now"
	if holder := lease.Spec.HolderIdentity; holder != nil && *holder != "" {
		does = "which holds its Lease"
	}
	return fmt.Errorf("%w: %s (instance %s), %s; this one would make its machines a second time, and waits for as long as there is the Lease %s in namespace %s: "+
		"delete that only when the other host is stopped for good and its machines are gone", ErrElsewhere, lease.Labels[hostLabel], home, does, LeaseName, h.o.Namespace)
}

// say tells of an error, in words.
func (h *homes) say(err error) error {
	switch {
	case err == nil:
		h.o.Waiting(nil)
		return nil
	case apierrors.IsConflict(err) || errors.Is(err, context.Canceled):
		return err
	case !errors.Is(err, ErrElsewhere):
		err = fmt.Errorf("lease %s/%s: %w", h.o.Namespace, LeaseName, err)
	}
	h.o.Waiting(err)
	return err
}

// Leases implements coordination.LeasesGetter.
func (h *homes) Leases(namespace string) coordination.LeaseInterface {
	return &homeLeases{h.LeasesGetter.Leases(namespace), h}
}

type homeLeases struct {
	coordination.LeaseInterface
	h *homes
}

// callTimeout bounds one request for the Lease.
const callTimeout = 10 * time.Second

// Get fails for a Lease that is another instance's.
func (l *homeLeases) Get(ctx context.Context, name string, o metav1.GetOptions) (*coordinationv1.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	lease, err := l.LeaseInterface.Get(ctx, name, o)
	if err == nil {
		if err = l.h.elsewhere(lease); err != nil {
			l.h.foreign()
		}
	}
	if err == nil || apierrors.IsNotFound(err) {
		return lease, err
	}
	return nil, l.h.say(err)
}

// Create makes the Lease.
func (l *homeLeases) Create(ctx context.Context, lease *coordinationv1.Lease, o metav1.CreateOptions) (*coordinationv1.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	lease, err := l.LeaseInterface.Create(ctx, lease, o)
	if apierrors.IsNotFound(err) { // of a Lease that is made, only its namespace can be missing
		err = fmt.Errorf("the namespace does not exist: make it with `sandboxd crds --rbac | kubectl apply --server-side -f -`: %w", err)
	}
	return lease, l.h.say(err)
}

// Update renews the Lease.
func (l *homeLeases) Update(ctx context.Context, lease *coordinationv1.Lease, o metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	lease, err := l.LeaseInterface.Update(ctx, lease, o)
	return lease, l.h.say(err)
}
