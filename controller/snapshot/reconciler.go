package snapshot

import (
	"context"
	"errors"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/patch"
	"sandboxd.dev/sandboxd/controller/turn"
	"sandboxd.dev/sandboxd/providers"
)

// IndexForks is the field index of Sandboxes by spec.fromSnapshot, and IndexSandbox
// that of SandboxSnapshots by spec.sandbox. The Reconciler's client must have the
// first.
const (
	IndexForks   = "spec.fromSnapshot"
	IndexSandbox = "spec.sandbox"
)

// Recorder records events about objects; satisfied by client-go's
// tools/events.EventRecorder.
type Recorder interface {
	Eventf(regarding, related runtime.Object, eventtype, reason, action, note string, args ...any)
}

// Options of a Reconciler.
type Options struct {
	Client    client.Client
	Recorder  Recorder
	Providers *providers.Set
	Work      *Work
	// Turns are shared with who else acts on machines.
	Turns *turn.Turns
	// Resync is how often a settled snapshot is looked at without being woken.
	Resync time.Duration
	// Clock tells the time; nil means the real one.
	Clock clock.PassiveClock
}

// Reconciler reconciles SandboxSnapshots. It is safe for concurrent use on
// different snapshots.
type Reconciler struct {
	o      Options
	writer *patch.Writer
}

// New makes a Reconciler.
func New(o Options) *Reconciler {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	return &Reconciler{o: o, writer: patch.NewWriter(o.Client)}
}

// cacheLag is when to look again for a write that the cache does not have yet, and
// cancelLag for a job that is being cancelled.
const (
	cacheLag  = 10 * time.Millisecond
	cancelLag = 100 * time.Millisecond
)

// state is what one reconciliation knows.
type state struct {
	snap *v1.SandboxSnapshot
	// before is the snapshot as it was read or last written.
	before *v1.SandboxSnapshot
	// read is the snapshot as it was read.
	read  *v1.SandboxSnapshot
	owner owner
	// sandbox of the name, which need not be the machine's; nil when there is none.
	sandbox *v1.Sandbox
	// provider is nil when none was ever asked for anything.
	provider providers.Provider
	held     *providers.Snapshot
	machine  *providers.Machine
	// forks that have machines, by name.
	forks []string
	last  step
	// working: a job is under way; cancelling: one that nobody tells the end of.
	working, cancelling bool
	err                 error
	now                 time.Time
}

func (s *state) ref() providers.SnapshotRef {
	return providers.SnapshotRef{Machine: types.UID(s.snap.Status.MachineID), ID: s.snap.UID}
}

func (s *state) deleting() bool { return !s.snap.DeletionTimestamp.IsZero() }

// Reconcile brings one SandboxSnapshot nearer to its spec.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	snap := &v1.SandboxSnapshot{}
	if err := r.o.Client.Get(ctx, req.NamespacedName, snap); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if r.writer.Stale(snap) {
		return reconcile.Result{RequeueAfter: cacheLag}, nil
	}
	result, err := r.reconcile(ctx, &state{snap: snap, before: snap.DeepCopy(), read: snap.DeepCopy(), now: r.o.Clock.Now()})
	if apierrors.IsConflict(err) { // somebody else wrote meanwhile
		return reconcile.Result{RequeueAfter: cacheLag}, nil
	}
	return result, err
}

func (r *Reconciler) reconcile(ctx context.Context, s *state) (reconcile.Result, error) {
	if s.deleting() && !controllerutil.ContainsFinalizer(s.snap, v1.FinalizerSnapshot) {
		return reconcile.Result{}, nil
	}
	if !s.deleting() && controllerutil.AddFinalizer(s.snap, v1.FinalizerSnapshot) {
		if err := r.writer.Claim(ctx, s.before, s.snap); err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
		s.before = s.snap.DeepCopy()
	}
	if s.err = r.observe(ctx, s); s.err == nil {
		s.last = next(s.observed())
		logr.FromContextOrDiscard(ctx).V(1).Info("decided", "action", s.last.action, "why", s.last.why)
		if done, err := r.act(ctx, s); done || err != nil {
			return reconcile.Result{}, err
		}
	}
	updateStatus(s)
	if err := r.write(ctx, s); err != nil {
		return reconcile.Result{}, err
	}
	if s.read.Status.TakenAt == nil && s.held != nil {
		r.event(s.snap, corev1.EventTypeNormal, "Taken", "Take", "the state of sandbox %s%s is kept", s.snap.Spec.Sandbox, withMemory(s.held.Memory))
	}
	return r.result(ctx, s)
}

// act carries out the step. done means that there is nothing more to write or do.
func (r *Reconciler) act(ctx context.Context, s *state) (done bool, err error) {
	switch s.last.action {
	case actTake:
		return false, r.take(ctx, s)
	case actSettle:
		r.o.Work.Forget(s.key(verbTake))
	case actLose:
		s.err = providers.Errorf(providers.ErrInvalid, object(s.snap),
			"%s has it no more: it was removed by others, or with the machine's files; delete it", s.snap.Status.Provider).WithReason(v1.ReasonLost)
	case actCollect:
		r.event(s.snap, corev1.EventTypeNormal, "Deleted", "Delete", "the sandbox that it was taken of is gone, machine %s: it goes along", s.snap.Status.MachineID)
		return true, client.IgnoreNotFound(r.o.Client.Delete(ctx, s.snap, client.Preconditions{UID: &s.snap.UID}))
	case actFollow:
		r.cancel(s)
	case actRemove:
		if s.err = r.remove(ctx, s); s.err == nil && !s.working {
			controllerutil.RemoveFinalizer(s.snap, v1.FinalizerSnapshot)
			return true, r.writer.Object(ctx, s.before, s.snap)
		}
	}
	return false, nil
}

// observe fills in what the decision needs.
func (r *Reconciler) observe(ctx context.Context, s *state) error {
	if err := r.findOwner(ctx, s); err != nil {
		return err
	}
	if err := r.findForks(ctx, s); err != nil {
		return err
	}
	name := s.snap.Status.Provider
	if name == "" {
		if s.owner != ownerPresent {
			return nil // nothing was begun, and nothing can be
		}
		name = s.sandbox.Status.Provider
	}
	p, err := r.o.Providers.Get(name)
	if err != nil {
		return err
	}
	if s.provider = p; s.deleting() {
		return nil
	}
	held, err := p.GetSnapshot(ctx, s.ref())
	switch {
	case err == nil:
		s.held = &held
		return nil
	case !errors.Is(err, providers.ErrNotFound):
		return err
	case s.owner != ownerPresent:
		return nil
	}
	m, err := p.GetMachine(ctx, s.ref().Machine)
	switch {
	case err == nil:
		s.machine = &m
	case !errors.Is(err, providers.ErrNotFound):
		return err
	}
	return nil
}

// findOwner looks for the sandbox, and binds the snapshot to its machine when it is
// bound to none.
func (r *Reconciler) findOwner(ctx context.Context, s *state) error {
	sbx := &v1.Sandbox{}
	err := r.o.Client.Get(ctx, types.NamespacedName{Namespace: s.snap.Namespace, Name: s.snap.Spec.Sandbox}, sbx)
	switch {
	case err == nil:
		s.sandbox = sbx
	case !apierrors.IsNotFound(err):
		return err
	}
	if s.snap.Status.MachineID == "" && !s.deleting() && s.sandbox != nil && sbx.DeletionTimestamp.IsZero() && sbx.Status.MachineID != "" {
		s.snap.Status.MachineID = string(sbx.UID)
		if err := r.write(ctx, s); err != nil {
			return err
		}
	}
	s.owner = ownerOf(s.snap, s.sandbox)
	if s.owner != ownerPresent || s.deleting() {
		return nil
	}
	return r.own(ctx, s)
}

// own says in the snapshot's metadata whose it is, for collectors and for people.
func (r *Reconciler) own(ctx context.Context, s *state) error {
	for _, o := range s.snap.OwnerReferences {
		if o.UID == s.sandbox.UID {
			return nil
		}
	}
	s.snap.OwnerReferences = append(s.snap.OwnerReferences, metav1.OwnerReference{
		APIVersion: v1.GroupVersion.String(), Kind: "Sandbox", Name: s.sandbox.Name, UID: s.sandbox.UID,
	})
	return r.writeObject(ctx, s)
}

// ownerOf judges the sandbox of the snapshot's name, which may be nil.
func ownerOf(snap *v1.SandboxSnapshot, sbx *v1.Sandbox) owner {
	bound := snap.Status.MachineID
	switch {
	case sbx == nil && bound == "":
		return ownerAbsent
	case bound != "" && (sbx == nil || string(sbx.UID) != bound):
		return ownerGone
	case !sbx.DeletionTimestamp.IsZero():
		return ownerDeleting
	case bound == "":
		return ownerUnmade
	default:
		return ownerPresent
	}
}

// findForks lists the sandboxes that began from the snapshot.
func (r *Reconciler) findForks(ctx context.Context, s *state) error {
	var list v1.SandboxList
	err := r.o.Client.List(ctx, &list, client.InNamespace(s.snap.Namespace),
		client.MatchingFields{IndexForks: s.snap.Name}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return err
	}
	s.forks = Forks(list.Items)
	return nil
}

func (s *state) observed() observed {
	o := observed{
		Deleting: s.deleting(), Owner: s.owner, Taken: s.snap.Status.TakenAt != nil, Held: s.held != nil,
		Forks: len(s.forks), Memory: s.snap.Spec.Memory,
	}
	if s.machine != nil {
		o.Machine, o.Rising = s.machine.Power, rising(s.sandbox, s.machine.Power)
	}
	return o
}

// write writes what changed of the status, and writeObject what changed elsewhere.
// Each leaves what the other writes to it.
func (r *Reconciler) write(ctx context.Context, s *state) error {
	if err := r.writer.Status(ctx, s.before, s.snap); err != nil {
		return err
	}
	s.before = s.snap.DeepCopy()
	return nil
}

func (r *Reconciler) writeObject(ctx context.Context, s *state) error {
	status := s.snap.Status.DeepCopy()
	if err := r.writer.Object(ctx, s.before, s.snap); err != nil {
		return err
	}
	s.before = s.snap.DeepCopy()
	s.snap.Status = *status
	return nil
}

// result says when to look again.
func (r *Reconciler) result(ctx context.Context, s *state) (reconcile.Result, error) {
	if s.err != nil {
		log := logr.FromContextOrDiscard(ctx).V(1)
		if s.told() && !errors.Is(s.err, providers.ErrDown) {
			log = logr.FromContextOrDiscard(ctx)
			r.event(s.snap, corev1.EventTypeWarning, providers.ReasonOf(s.err), "Reconcile", "%s", s.err.Error())
		}
		if !providers.IsTerminal(s.err) {
			return reconcile.Result{}, s.err
		}
		log.Info("stalled", "reason", providers.ReasonOf(s.err), "error", s.err.Error())
		return reconcile.Result{}, nil
	}
	if s.cancelling {
		return reconcile.Result{RequeueAfter: cancelLag}, nil
	}
	return reconcile.Result{RequeueAfter: r.o.Resync}, nil
}

func (r *Reconciler) event(snap *v1.SandboxSnapshot, kind, reason, action, note string, args ...any) {
	r.o.Recorder.Eventf(snap, nil, kind, reason, action, note, args...)
}

// RequestFor is the request that wakes the reconciler of a job.
func RequestFor(k Key) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Namespace: k.Namespace, Name: k.Name}}
}

// SandboxRequestFor is the request that wakes the reconciler of a job's sandbox.
func SandboxRequestFor(k Key) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Namespace: k.Namespace, Name: k.Sandbox}}
}
