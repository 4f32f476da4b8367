package goldenimage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/capacity"
	"sandboxd.dev/sandboxd/controller/goldenimage/build"
	"sandboxd.dev/sandboxd/controller/job"
	"sandboxd.dev/sandboxd/controller/patch"
	"sandboxd.dev/sandboxd/hostpath"
	"sandboxd.dev/sandboxd/providers"
)

// IndexImage is the field index of Sandboxes by spec.image that the
// Reconciler's client must have.
const IndexImage = "spec.image"

// Key names an import job.
type Key struct {
	// Name of the GoldenImage, to wake its reconciler.
	Name string
	Ref  providers.ImageRef
}

// Imports runs the import jobs.
type Imports = job.Runner[Key, providers.Progress, providers.Image]

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
	HostPaths *hostpath.Policy
	Imports   *Imports
	// Build is what images are built with.
	Build BuildOptions
	// Capacity is what the machines of builds are admitted by; nil means without limit.
	Capacity *capacity.Ledger
	// Resync is how often a settled image is looked at without being woken.
	Resync time.Duration
	// Clock tells the time; nil means the real one.
	Clock clock.PassiveClock
}

// Reconciler reconciles GoldenImages. It is safe for concurrent use on
// different images.
type Reconciler struct {
	o      Options
	writer *patch.Writer
}

// New makes a Reconciler.
func New(o Options) *Reconciler {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Build.Limits == (build.Limits{}) {
		o.Build.Limits = build.DefaultLimits()
	}
	if o.Capacity == nil {
		o.Capacity = capacity.New(capacity.NoLimit(), nil)
	}
	return &Reconciler{o: o, writer: patch.NewWriter(o.Client)}
}

// cacheLag is when to look again for a write that the cache does not have yet.
const cacheLag = 10 * time.Millisecond

// progressInterval is how often the progress of an import is shown.
const progressInterval = 2 * time.Second

// state is what one reconciliation knows.
type state struct {
	img *v1.GoldenImage
	// before is the image as it was last written.
	before   *v1.GoldenImage
	provider providers.Provider
	plan     build.Plan
	wanted   providers.ImageRef
	sealed   *providers.Image
	// base is the sealed revision that the machine of a build is a clone of.
	base      *providers.Image
	sandboxes []v1.Sandbox
	clones    map[string]int32
	// origin is set when the source is a sandbox.
	origin *origin
	// progress is set while an import runs.
	progress *providers.Progress
	// building is set while a build is under way.
	building string
	// unadmitted says what room the machine of a build waits for, if it does; asked
	// that it asked for some.
	unadmitted capacity.Verdict
	asked      bool
	// again is when to look again; 0: only when woken or at the resync.
	again time.Duration
	err   error
	now   time.Time
}

// ref of a revision of the image.
func (s *state) ref(revision string) providers.ImageRef {
	return providers.ImageRef{UID: s.img.UID, Revision: revision}
}

// key of the job of a revision.
func (s *state) key(revision string) Key { return Key{Name: s.img.Name, Ref: s.ref(revision)} }

// Reconcile brings one GoldenImage nearer to its spec.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	who := capacity.Who{Name: req.Name}
	looked := r.o.Capacity.Look(who)
	img := &v1.GoldenImage{}
	if err := r.o.Client.Get(ctx, req.NamespacedName, img); err != nil {
		if apierrors.IsNotFound(err) {
			r.o.Capacity.Gone(who)
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if r.writer.Stale(img) {
		return reconcile.Result{RequeueAfter: cacheLag}, nil
	}
	r.o.Capacity.Read(who, AdmissionKey(img))
	defer looked()
	result, err := r.reconcile(ctx, img)
	if apierrors.IsConflict(err) { // somebody else wrote meanwhile
		return reconcile.Result{RequeueAfter: cacheLag}, nil
	}
	return result, err
}

func (r *Reconciler) reconcile(ctx context.Context, img *v1.GoldenImage) (reconcile.Result, error) {
	before := img.DeepCopy()
	deleting := !img.DeletionTimestamp.IsZero()
	if deleting && !controllerutil.ContainsFinalizer(img, v1.FinalizerImage) {
		return reconcile.Result{}, nil
	}
	if !deleting && controllerutil.AddFinalizer(img, v1.FinalizerImage) {
		if err := r.writer.Claim(ctx, before, img); err != nil {
			r.undecided(ctx, img, err)
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
		before = img.DeepCopy()
	}
	s := &state{img: img, before: before, now: r.o.Clock.Now()}
	s.err = r.observe(ctx, s)
	if s.err == nil {
		done, err := r.act(ctx, s)
		if done {
			controllerutil.RemoveFinalizer(img, v1.FinalizerImage)
			return reconcile.Result{}, r.writer.Object(ctx, s.before, img)
		}
		s.err = err
	}
	if b := img.Status.Build; providers.IsTerminal(s.err) && b != nil && b.Phase == v1.BuildPreparing {
		r.poweredOff(s) // it is not going to be started
	}
	switch {
	case s.asked:
	case s.err != nil && !providers.IsTerminal(s.err):
		r.undecided(ctx, img, s.err)
	default:
		r.o.Capacity.Withdraw(img.UID)
	}
	before = s.before
	if errors.Is(s.err, providers.ErrDown) && !deleting && meta.IsStatusConditionTrue(img.Status.Conditions, v1.ConditionReady) {
		return reconcile.Result{}, s.err // a sealed image stays what it is; what is made of it says what is wrong
	}
	updateStatus(s)
	if err := r.writer.Status(ctx, before, img); err != nil {
		return reconcile.Result{}, err
	}
	r.tell(s, before)
	return r.result(ctx, s, before)
}

// act does what is next; true once nothing is left of an image that is deleted.
func (r *Reconciler) act(ctx context.Context, s *state) (done bool, err error) {
	o := observed{
		Deleting: !s.img.DeletionTimestamp.IsZero(), Sealed: s.sealed != nil, Clones: s.clones,
		Machine: s.plan.Machine, Base: s.plan.Base == "" || s.base != nil,
	}
	switch next(o) {
	case actImport:
		if err := r.build(ctx, s, false); err != nil {
			return false, err
		}
		revision := cmp.Or(s.plan.Base, s.wanted.Revision)
		from, err := r.promoted(ctx, s, revision)
		if err != nil {
			return false, err
		}
		return false, r.importImage(ctx, s, revision, from)
	case actBuild:
		return false, r.build(ctx, s, true)
	case actSettle:
		if err := r.build(ctx, s, false); err != nil {
			return false, err
		}
		r.o.Imports.Forget(s.key(s.wanted.Revision))
		r.cancelImports(s, s.wanted.Revision)
		return false, r.removeObsolete(ctx, s)
	case actHold:
		return false, r.build(ctx, s, false)
	default: // actRemove
		return r.remove(ctx, s)
	}
}

// observe fills in what the decision needs.
func (r *Reconciler) observe(ctx context.Context, s *state) error {
	var list v1.SandboxList
	// They are only read: copies of a thousand would cost more than all the rest.
	if err := r.o.Client.List(ctx, &list, client.MatchingFields{IndexImage: s.img.Name}, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	// As it was when it could be looked at last.
	s.hold(list.Items, !meta.IsStatusConditionFalse(s.img.Status.Conditions, v1.ConditionImported))
	missing, err := r.observeOrigin(ctx, s)
	if err != nil {
		return err
	}
	name := s.img.Status.Provider
	if name == "" {
		name = r.o.Providers.Resolve(cmp.Or(s.img.Spec.Provider, s.origin.holder()))
	}
	p, err := r.o.Providers.Get(name)
	if err != nil {
		if s.img.Status.Provider == "" && !s.img.DeletionTimestamp.IsZero() {
			s.hold(list.Items, false)
			return nil // never imported by anybody: nothing to remove
		}
		return err
	}
	if asked := s.img.Spec.Provider; asked != "" && asked != name && s.img.DeletionTimestamp.IsZero() {
		return providers.Errorf(providers.ErrInvalid, fmt.Sprintf("image %q", s.img.Name),
			"spec.provider says %s, but %s holds the image already: make another GoldenImage", asked, name)
	}
	if missing != nil && s.img.DeletionTimestamp.IsZero() {
		return missing // before a provider is chosen
	}
	s.provider, s.img.Status.Provider = p, name
	s.plan = build.PlanOf(pinned(s.img.Spec, s.origin))
	s.wanted = s.ref(s.plan.Revision)
	if s.sealed, err = look(ctx, p, s.wanted); err != nil {
		return err
	}
	s.hold(list.Items, s.sealed != nil)
	if s.plan.Base == "" {
		return nil
	}
	s.base, err = look(ctx, p, s.ref(s.plan.Base))
	return err
}

// hold takes those of the sandboxes that name the image by which it stays: all of them,
// and while it is being deleted only some.
func (s *state) hold(naming []v1.Sandbox, sealed bool) {
	s.sandboxes = naming
	if !s.img.DeletionTimestamp.IsZero() {
		s.sandboxes = holding(s.img, sealed, naming)
	}
	s.clones = countClones(s.sandboxes)
}

// look returns a sealed revision, or nil when there is none.
func look(ctx context.Context, p providers.Provider, ref providers.ImageRef) (*providers.Image, error) {
	sealed, err := p.GetImage(ctx, ref)
	switch {
	case errors.Is(err, providers.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &sealed, nil
}

// importImage starts the import of a revision, or sees how it stands. With from,
// the disk is that of a machine of ours.
func (r *Reconciler) importImage(begun context.Context, s *state, revision string, from *providers.DiskRef) error {
	r.cancelImports(s, revision)
	spec, err := r.imageSpec(s, revision, from)
	if err != nil {
		return err
	}
	key := s.key(revision)
	if s.img.Status.ObservedGeneration != s.img.Generation {
		r.o.Imports.Forget(key) // a changed spec is tried anew
	}
	p := s.provider
	st := r.o.Imports.Ensure(key, func(ctx context.Context, report func(providers.Progress)) (providers.Image, error) {
		return p.ImportImage(job.Logged(ctx, begun), spec, report)
	})
	if !st.Done {
		s.progress = &st.Progress
		return nil
	}
	if providers.IsTerminal(st.Err) {
		// Kept, so that whatever else wakes the reconciler, such as a new
		// sandbox, does not have a bad source read again and again.
		return st.Err
	}
	r.o.Imports.Forget(key)
	if st.Err != nil {
		return st.Err
	}
	if revision == s.wanted.Revision {
		s.sealed = &st.Result
	} else {
		s.base, s.again = &st.Result, cacheLag
	}
	return nil
}

// imageSpec checks what the schema cannot say, and resolves host paths.
func (r *Reconciler) imageSpec(s *state, revision string, from *providers.DiskRef) (providers.ImageSpec, error) {
	spec := providers.ImageSpec{
		ImageRef: s.ref(revision), Name: s.img.Name, Machine: s.img.Spec.Machine,
	}
	if from != nil {
		spec.From = from
		return spec, nil
	}
	spec.Source, spec.Digest = *s.img.Spec.Source.DeepCopy(), recordedDigest(s.img.Status, revision)
	object := fmt.Sprintf("image %q", s.img.Name)
	var err error
	if disk := spec.Source.Disk; disk != nil && disk.Path != "" {
		disk.Path, err = r.o.HostPaths.File(disk.Path)
		return spec, pathError(object, "source.disk.path", err)
	}
	if artifact := spec.Source.OCI; artifact != nil && artifact.Layout != "" {
		artifact.Layout, err = r.o.HostPaths.Layout(artifact.Layout)
		return spec, pathError(object, "source.oci.layout", err)
	}
	return spec, nil // the provider says what else it can import
}

// pathError gives what is wrong with a host path a kind and a reason.
func pathError(object, field string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, hostpath.ErrNotFound):
		return providers.Errorf(providers.ErrInvalid, object, "%s: %w", field, err).WithReason(providers.ReasonSourceNotFound)
	case errors.Is(err, hostpath.ErrForbidden):
		return providers.Errorf(providers.ErrInvalid, object, "%s: %w", field, err).WithReason(v1.ReasonHostPathForbidden)
	default:
		return providers.Errorf(providers.ErrInvalid, object, "%s: %w", field, err)
	}
}

// recordedDigest is that of a revision's source when it was sealed before; empty
// when it never was.
func recordedDigest(st v1.GoldenImageStatus, revision string) string {
	for _, h := range st.Revisions {
		if h.Revision == revision {
			return h.Digest
		}
	}
	if st.Revision == revision {
		return st.Digest
	}
	return ""
}

// cancelImports ends the imports of other revisions than keep.
func (r *Reconciler) cancelImports(s *state, keep string) {
	r.o.Imports.Cancel(func(k Key) bool { return k.Ref.UID == s.img.UID && k.Ref.Revision != keep })
}

// result says when to look again.
func (r *Reconciler) result(ctx context.Context, s *state, before *v1.GoldenImage) (reconcile.Result, error) {
	if s.err != nil {
		log := logr.FromContextOrDiscard(ctx).V(1)
		if !errors.Is(s.err, providers.ErrDown) && patch.ReadyChanged(before.Status.Conditions, s.img.Status.Conditions) {
			log = logr.FromContextOrDiscard(ctx)
			r.event(s.img, corev1.EventTypeWarning, providers.ReasonOf(s.err), "Reconcile", "%s", s.err.Error())
		}
		if providers.IsTerminal(s.err) {
			log.Info("stalled", "reason", providers.ReasonOf(s.err), "error", s.err.Error())
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, s.err
	}
	if s.again > 0 {
		return reconcile.Result{RequeueAfter: min(s.again, r.o.Resync)}, nil
	}
	if s.progress != nil {
		return reconcile.Result{RequeueAfter: progressInterval}, nil
	}
	return reconcile.Result{RequeueAfter: r.o.Resync}, nil
}

// tell records what became of the image's import, and who uses an image that is to be
// deleted. It goes by what the status said before, so that an import whose end nobody was
// there to see, because the daemon was restarted, is told of too.
func (r *Reconciler) tell(s *state, before *v1.GoldenImage) {
	reason := func(img *v1.GoldenImage) string {
		if c := meta.FindStatusCondition(img.Status.Conditions, v1.ConditionImported); c != nil {
			return c.Reason
		}
		return ""
	}
	switch st := s.img.Status; {
	case s.sealed != nil && st.Revision != before.Status.Revision:
		r.event(s.img, corev1.EventTypeNormal, v1.ReasonImported, "Import", "sealed revision %s (%s)", st.Revision, st.Digest)
	case reason(s.img) == v1.ReasonImporting && reason(before) != v1.ReasonImporting:
		r.event(s.img, corev1.EventTypeNormal, v1.ReasonImporting, "Import", "reading the source of revision %s", cmp.Or(s.plan.Base, s.wanted.Revision))
	}
	was, is := meta.FindStatusCondition(before.Status.Conditions, v1.ConditionReady), meta.FindStatusCondition(s.img.Status.Conditions, v1.ConditionReady)
	if is.Reason == v1.ReasonInUse && (was == nil || was.Reason != is.Reason) {
		r.event(s.img, corev1.EventTypeNormal, is.Reason, "Delete", "%s", is.Message)
	}
}

func (r *Reconciler) event(img *v1.GoldenImage, kind, reason, action, note string, args ...any) {
	r.o.Recorder.Eventf(img, nil, kind, reason, action, note, args...)
}

// RequestFor is the request that wakes the reconciler of an import job.
func RequestFor(k Key) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Name: k.Name}}
}
