package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/capacity"
	"sandboxd.dev/sandboxd/controller/patch"
	"sandboxd.dev/sandboxd/controller/turn"
	"sandboxd.dev/sandboxd/hostpath"
	"sandboxd.dev/sandboxd/providers"
)

// Recorder records events about objects; satisfied by client-go's
// tools/events.EventRecorder.
type Recorder interface {
	Eventf(regarding, related runtime.Object, eventtype, reason, action, note string, args ...any)
}

// Backoff tells how long a request that fails now will wait for its next try; 0 where
// that is not known.
type Backoff interface {
	Upcoming(r reconcile.Request) time.Duration
}

// Options of a Reconciler.
type Options struct {
	// Backoff tells when what fails is tried again; nil knows nothing.
	Backoff   Backoff
	Client    client.Client
	Recorder  Recorder
	Providers *providers.Set
	HostPaths *hostpath.Policy
	Defaults  Defaults
	// Resync is how often a settled sandbox is looked at without being woken.
	Resync time.Duration
	// Clock tells the time; nil means the real one.
	Clock clock.PassiveClock
	// Dialer reaches guests' ports; nil means a net.Dialer.
	Dialer Dialer
	// Usage tells when sandboxes were last used; nil knows of no use.
	Usage Usage
	// SSH sets up guests that have no agent; nil leaves them alone.
	SSH SSH
	// Disks copies artifacts out of disks.
	Disks DiskReader
	// Capacity is what machines are admitted by; nil means without limit.
	Capacity *capacity.Ledger
	// Turns are shared with who else acts on machines; nil means nobody does.
	Turns *turn.Turns
}

// Usage tells when sandboxes were last used; package usage has one.
type Usage interface {
	// Last is the zero time when no use is known.
	Last(id types.UID) time.Time
	// Forget drops what is known of a sandbox that is gone.
	Forget(id types.UID)
}

// Reconciler reconciles Sandboxes. It is safe for concurrent use on different
// Sandboxes.
type Reconciler struct {
	o      Options
	writer *patch.Writer
}

// New makes a Reconciler.
func New(o Options) *Reconciler {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Dialer == nil {
		o.Dialer = &net.Dialer{}
	}
	if o.Turns == nil {
		o.Turns = turn.New()
	}
	if o.Capacity == nil {
		o.Capacity = capacity.New(capacity.NoLimit(), nil)
	}
	return &Reconciler{o: o, writer: patch.NewWriter(o.Client)}
}

// cacheLag is when to look again for a write that the cache does not have yet.
const cacheLag = 10 * time.Millisecond

// maxSteps bounds the actions of one reconciliation. The longest way, from
// nothing over a revert to running, takes four.
const maxSteps = 8

// Reconcile brings one Sandbox a few steps nearer to its spec.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	who := capacity.Who{Namespace: req.Namespace, Name: req.Name}
	looked := r.o.Capacity.Look(who)
	sbx := &v1.Sandbox{}
	if err := r.o.Client.Get(ctx, req.NamespacedName, sbx); err != nil {
		if apierrors.IsNotFound(err) {
			r.o.Capacity.Gone(who)
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if r.writer.Stale(sbx) {
		return reconcile.Result{RequeueAfter: cacheLag}, nil
	}
	defer looked()
	result, err := r.inTurn(ctx, sbx)
	if apierrors.IsConflict(err) { // somebody else wrote meanwhile
		return reconcile.Result{RequeueAfter: cacheLag}, nil
	}
	return result, err
}

// turnLag is when to look again at a machine that somebody else has the turn on, if
// nobody says before that it is over.
const turnLag = time.Second

// inTurn reconciles unless somebody else is at work on the machine, which does not
// look then as it will afterwards.
func (r *Reconciler) inTurn(ctx context.Context, sbx *v1.Sandbox) (reconcile.Result, error) {
	release, ok := r.o.Turns.Try(sbx.UID)
	if ok {
		defer release()
		return r.reconcile(ctx, sbx)
	}
	if !sbx.DeletionTimestamp.IsZero() {
		if _, err := r.deleteSnapshots(ctx, sbx); err != nil { // which ends the taking of one
			return reconcile.Result{}, err
		}
	}
	return reconcile.Result{RequeueAfter: turnLag}, nil
}

func (r *Reconciler) reconcile(ctx context.Context, sbx *v1.Sandbox) (reconcile.Result, error) {
	before := sbx.DeepCopy()
	setBack(&sbx.Status, r.o.Clock.Now())
	if !sbx.DeletionTimestamp.IsZero() {
		return r.delete(ctx, before, sbx)
	}
	if controllerutil.AddFinalizer(sbx, v1.FinalizerMachine) {
		if err := r.writer.Claim(ctx, before, sbx); err != nil {
			r.undecided(ctx, sbx, err)
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
		before = sbx.DeepCopy()
	}
	r.noteUse(sbx)
	now := r.o.Clock.Now()
	if expired(sbx, now) && sbx.Spec.Lifecycle.OnExpiry != v1.ExpiryStop {
		_, why := expiry(sbx)
		r.event(sbx, corev1.EventTypeNormal, "Expired", "Delete", "deleted: %s", why)
		return reconcile.Result{}, client.IgnoreNotFound(r.o.Client.Delete(ctx, sbx, client.Preconditions{UID: &sbx.UID}))
	}

	v := r.advance(ctx, before, sbx)
	v.now = r.o.Clock.Now()
	if v.observed && providers.IsTerminal(v.err) {
		r.account(&v)
	}
	switch {
	case v.asked:
	case v.err != nil && !providers.IsTerminal(v.err):
		r.undecided(ctx, sbx, v.err)
	default:
		r.o.Capacity.Withdraw(sbx.UID)
	}
	sbx.Status.ExpiresAt, _ = expiry(sbx)
	if err := r.conclude(ctx, &v); err != nil {
		return reconcile.Result{}, err
	}
	if v.err != nil {
		due := r.stillDue(v)
		if v.machine != nil { // which others may change, or put right, without a word
			due = r.requeueAfter(v)
		}
		return r.failed(ctx, sbx, before, v.err, due)
	}
	return reconcile.Result{RequeueAfter: r.requeueAfter(v)}, nil
}

// write writes what changed of the sandbox's status since it was read or written.
func (r *Reconciler) write(ctx context.Context, v *view) error {
	if err := r.writer.Status(ctx, v.before, v.sbx); err != nil {
		return err
	}
	v.before = v.sbx.DeepCopy()
	return nil
}

// advance observes and acts until there is nothing to do but wait, or an
// error. What it remembers goes into sbx.Status.
func (r *Reconciler) advance(ctx context.Context, before, sbx *v1.Sandbox) view {
	v := view{sbx: sbx, before: before, now: r.o.Clock.Now()}
	if v.img, v.err = r.image(ctx, sbx.Spec.Image); v.err != nil {
		return v
	}
	if v.err = r.findSnapshots(ctx, &v); v.err != nil {
		return v
	}
	r.o.Capacity.Read(whoIs(sbx), AdmissionKey(sbx, v.img, v.origin.snap))
	if v.err = r.findParent(ctx, &v); v.err != nil {
		return v
	}
	name := sbx.Status.Provider
	if name == "" && v.img != nil {
		name = firstSet(v.img.Status.Provider, r.o.Providers.Resolve(v.img.Spec.Provider))
	}
	if name == "" { // no image, and never had a machine
		v.last = step{action: actWait, why: whyImage}
		return v
	}
	p, err := r.o.Providers.Get(name)
	if err != nil {
		v.err = err
		return v
	}
	if v.img != nil && v.img.Status.Provider != "" { // which does not change any more
		sbx.Status.Provider = name
	}
	for range maxSteps {
		if done := r.step(ctx, p, &v); done {
			return v
		}
	}
	v.err = fmt.Errorf("sandbox %s/%s: the machine does not become what was asked for within %d steps (last: %s)",
		sbx.Namespace, sbx.Name, maxSteps, v.last.action)
	return v
}

// step observes, decides and acts once. It returns true when there is nothing
// more to do.
func (r *Reconciler) step(ctx context.Context, p providers.Provider, v *view) bool {
	v.machine, v.err = observe(ctx, p, v.sbx.UID)
	v.observed = v.err == nil // and what an earlier step saw is not so any more
	if v.err != nil {
		return true
	}
	if v.err = r.artifacts(ctx, p, v); v.err != nil {
		return true
	}
	if v.kept, v.err = r.kept(ctx, v); v.err != nil {
		return true
	}
	if v.err = r.seekDisk(ctx, p, v); v.err != nil {
		return true
	}
	spec, err := r.desire(v)
	r.remember(v)
	v.told = drifted(v).since(v)
	if err != nil {
		v.err = err
		v.last = recheck(step{action: actWait}, observedOf(v))
		r.restrain(ctx, p, v)
		return true
	}
	was := v.last
	v.last = next(v.desired, observedOf(v), v.now)
	switch {
	case v.last.why == whyDamaged:
		v.err = damaged(v)
		return true
	case v.last.why == whyDrift && v.last == was:
		v.err = unmended(v)
		return true
	}
	if !r.admit(ctx, v) || v.last.action == actWait {
		r.settle(ctx, p, v)
		return true
	}
	logr.FromContextOrDiscard(ctx).V(1).Info("acting", "action", v.last.action)
	if v.err = r.act(ctx, p, v, spec); v.err != nil {
		return true
	}
	v.now = r.o.Clock.Now()
	return v.last.action == actStopGraceful // the guest takes its time
}

// observe returns nil when there is no machine.
func observe(ctx context.Context, p providers.Provider, id types.UID) (*providers.Machine, error) {
	m, err := p.GetMachine(ctx, id)
	switch {
	case errors.Is(err, providers.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	default:
		return &m, nil
	}
}

// observedOf pairs what was seen with what the status remembers.
func observedOf(v *view) observed {
	st := &v.sbx.Status
	return observed{
		Machine:         v.machine,
		StartedAt:       timeOf(st.StartedAt),
		StoppingSince:   timeOf(st.StoppingSince),
		Restarts:        st.Restarts,
		UnisolatedSince: unisolatedSince(st),
		RepairedAt:      timeOf(st.RepairedAt),
		Repairs:         st.Repairs,
		Kept:            v.kept,
		Due:             len(dueArtifacts(v.sbx)) > 0,
		Reverted:        st.Revert,
	}
}

func (r *Reconciler) image(ctx context.Context, name string) (*v1.GoldenImage, error) {
	img := &v1.GoldenImage{}
	err := r.o.Client.Get(ctx, types.NamespacedName{Name: name}, img)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return img, err
}

// failed turns the error that ended a reconciliation into its result. Terminal
// errors wait for a change, or for what is due whatever is wrong; the others
// are tried again with backoff.
func (r *Reconciler) failed(ctx context.Context, sbx, before *v1.Sandbox, err error, due time.Duration) (reconcile.Result, error) {
	log := logr.FromContextOrDiscard(ctx).V(1)
	// An outage of the provider is no event of each of its sandboxes.
	if !errors.Is(err, providers.ErrDown) && patch.ReadyChanged(before.Status.Conditions, sbx.Status.Conditions) {
		log = logr.FromContextOrDiscard(ctx)
		r.event(sbx, corev1.EventTypeWarning, providers.ReasonOf(err), "Reconcile", "%s", err.Error())
	}
	if providers.IsTerminal(err) {
		log.Info("stalled", "reason", providers.ReasonOf(err), "error", err.Error())
		return reconcile.Result{RequeueAfter: due}, nil
	}
	return reconcile.Result{}, err
}

// requeueAfter is when to look again if nothing wakes us before.
func (r *Reconciler) requeueAfter(v view) time.Duration {
	// Spread over half the interval, so that sandboxes made together are not
	// looked at together for ever.
	after := sooner(r.o.Resync/2+rand.N(r.o.Resync/2+1), r.stillDue(v))
	if v.guest.reason == v1.ReasonWaitingForProbe {
		after = sooner(after, probeInterval)
	}
	if awaitsAddress(v) {
		after = sooner(after, addressInterval)
	}
	if v.guest.configErr != nil {
		after = sooner(after, guestConfigRetry)
	}
	return after
}

// awaitsAddress tells whether a guest that counts as up, and not for long, has no
// address yet. No provider promises an event when it gets one.
func awaitsAddress(v view) bool {
	ready := meta.FindStatusCondition(v.sbx.Status.Conditions, v1.ConditionGuestReady)
	return v.guest.status == metav1.ConditionTrue && v.machine != nil && len(v.machine.Addresses) == 0 &&
		v.sbx.Spec.Network.Mode != v1.NetworkNone &&
		ready != nil && v.now.Sub(ready.LastTransitionTime.Time) < addressPatience
}

// stillDue is when the next step or the end of the sandbox's time comes,
// whatever is wrong with its spec; 0 when neither does.
func (r *Reconciler) stillDue(v view) time.Duration {
	due := v.last.after
	if at := v.sbx.Status.ExpiresAt; at != nil && !expired(v.sbx, v.now) {
		due = sooner(due, at.Sub(v.now))
	}
	return due
}

// sooner is the smaller of two times to wait, where 0 is for ever.
func sooner(a, b time.Duration) time.Duration {
	if a <= 0 || b > 0 && b < a {
		return b
	}
	return a
}

func (r *Reconciler) event(sbx *v1.Sandbox, kind, reason, action, note string, args ...any) {
	r.o.Recorder.Eventf(sbx, nil, kind, reason, action, note, args...)
}

// timeOf is the zero time for nil.
func timeOf(t *metav1.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.Time
}
