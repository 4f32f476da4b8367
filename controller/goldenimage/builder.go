package goldenimage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/goldenimage/build"
	"sandboxd.dev/sandboxd/controller/job"
	"sandboxd.dev/sandboxd/providers"
)

// Builds runs the jobs of the steps.
type Builds = job.Runner[Key, build.Progress, struct{}]

// SSH reaches the guests of builds that have no agent.
type SSH interface {
	// AuthorizedKey is what such a guest has to authorize, as a line of an
	// authorized_keys file.
	AuthorizedKey() (string, error)
	// Reach opens a way into the guest of a machine that is described as a
	// Sandbox. The caller ends it with the function.
	Reach(p providers.Provider, machine *v1.Sandbox, img *v1.GoldenImage) (build.Guest, func())
}

// BuildOptions are what images are built with.
type BuildOptions struct {
	Jobs *Builds
	// Logs keeps what the steps print; nil keeps nothing.
	Logs *build.Logs
	// SSH reaches guests without an agent; nil: nothing does.
	SSH SSH
	// Secrets are read of it, and not kept.
	Secrets client.Reader
	// CPUs and Memory, in bytes, of machines whose image names none.
	CPUs   int32
	Memory int64
	// Limits of each build; the zero value means the default ones.
	Limits build.Limits
}

func (o BuildOptions) removeLog(id types.UID) error {
	if o.Logs == nil {
		return nil
	}
	return o.Logs.Remove(id)
}

// build does what is next for the build of an image, or ends it when it is not
// needed (any more).
func (r *Reconciler) build(ctx context.Context, s *state, needed bool) error {
	if s.provider == nil || (!needed && s.img.Status.Build == nil) {
		return nil
	}
	if b := s.img.Status.Build; b != nil {
		setBack(b, s.now)
	}
	o := build.Observed{
		Plan: s.plan, Limits: r.o.Build.Limits, Needed: needed, Generation: s.img.Generation,
		Request: s.img.Annotations[v1.AnnotationRebuild], Record: s.img.Status.Build,
	}
	if o.IsActive() {
		if err := r.observeBuild(ctx, s, &o); err != nil {
			return err
		}
	}
	if err := r.carryOut(ctx, s, build.Next(o, s.now)); err != nil || !needed {
		return err
	}
	st, _ := r.o.Build.Jobs.Get(s.key(s.wanted.Revision))
	said := ""
	if b := s.img.Status.Build; b != nil && b.Phase == v1.BuildInstalling {
		said = strings.Join(consoleLines(ctx, s.provider, s.img.UID, 1), "")
	}
	s.building = describe(s.plan, s.img.Status.Build, st.Progress, said)
	return nil
}

func (r *Reconciler) observeBuild(ctx context.Context, s *state, o *build.Observed) error {
	if err := build.Check(r.object(s), s.img.Spec); err != nil {
		return err
	}
	m, err := s.provider.GetMachine(ctx, s.img.UID)
	switch {
	case err == nil:
		o.Machine = &m
		if s.img.Status.Build.Phase == v1.BuildInstalling {
			spec, err := r.machineSpec(s)
			if err != nil {
				return err
			}
			o.Installed = m.Hashes == spec.Hashes()
		}
	case !errors.Is(err, providers.ErrNotFound):
		return err
	}
	if st, ok := r.o.Build.Jobs.Get(s.key(s.wanted.Revision)); ok {
		o.Job, o.JobErr = build.JobRunning, nil
		if st.Done {
			o.Job, o.JobErr = build.JobDone, st.Err
		}
		s.img.Status.Build.Step = cmp.Or(st.Progress.Step, s.img.Status.Build.Step)
	}
	return nil
}

// carryOut does one step. A phase that is reached is written down at the end of
// the reconciliation, except where that must be so before an effect.
func (r *Reconciler) carryOut(ctx context.Context, s *state, step build.Step) error {
	s.again = step.After
	if b := s.img.Status.Build; b != nil && b.Phase == v1.BuildInstalling && step.Err != nil {
		step.Err = r.withConsole(ctx, s, step.Err)
	}
	switch step.Action {
	case build.None:
		return failureOf(s.img.Name, s.img.Status.Build)
	case build.Wait:
		if s.again == 0 || s.again > r.o.Resync {
			s.again = r.o.Resync
		}
		if p := s.img.Status.Build.Phase; p == v1.BuildProvisioning || p == v1.BuildInstalling {
			s.again = min(s.again, progressInterval)
		}
		return nil
	case build.Begin:
		return r.begin(s)
	case build.Make:
		return r.makeMachine(ctx, s)
	case build.Boot:
		return r.boot(ctx, s)
	case build.Provision:
		return r.provision(ctx, s)
	case build.ShutDown:
		s.enter(v1.BuildShuttingDown)
		s.img.Status.Build.Step = ""
		return nil
	case build.Stop:
		return s.provider.Stop(ctx, s.img.UID, providers.StopGraceful)
	case build.Seal:
		if s.img.Status.Build.Phase == v1.BuildInstalling {
			if err := r.finishInstall(ctx, s); err != nil {
				return r.failIfTerminal(ctx, s, err)
			}
		}
		r.poweredOff(s)
		s.enter(v1.BuildSealing)
		return nil
	case build.Import:
		err := r.importImage(ctx, s, s.wanted.Revision, &providers.DiskRef{Machine: s.img.UID})
		if providers.IsTerminal(err) {
			s.fail(err)
			return nil
		}
		return err
	case build.Discard:
		_, err := r.discard(ctx, s)
		return err
	case build.Restart, build.Retry:
		return r.restart(ctx, s, step)
	case build.Fail:
		s.fail(step.Err)
		return nil
	default: // build.Close
		s.enter(v1.BuildDone)
		return nil
	}
}

// enter notes that a phase was reached, to be looked at again at once.
func (s *state) enter(phase v1.BuildPhase) {
	s.img.Status.Build.Phase, s.img.Status.Build.Since = phase, metav1.NewTime(s.now)
	s.again = cacheLag
}

// begin notes a new build. Its machine is made once that is written down.
func (r *Reconciler) begin(s *state) error {
	if err := build.Check(r.object(s), s.img.Spec); err != nil {
		return err
	}
	if agentless(s.img) && r.o.Build.SSH == nil {
		return providers.Errorf(providers.ErrUnsupported, r.object(s), "this daemon does not reach guests by ssh, and its guest has no agent")
	}
	s.img.Status.Build = &v1.ImageBuild{
		Revision: s.wanted.Revision, Generation: s.img.Generation, Request: s.img.Annotations[v1.AnnotationRebuild],
		Attempt: 1, MachineID: string(s.img.UID),
	}
	s.enter(v1.BuildPreparing)
	r.event(s.img, corev1.EventTypeNormal, v1.ReasonProvisioning, "Build", "building revision %s in a machine", s.wanted.Revision)
	return nil
}

// makeMachine makes the machine and starts it.
func (r *Reconciler) makeMachine(ctx context.Context, s *state) error {
	spec, err := r.machineSpec(s)
	if err != nil {
		return err
	}
	if ok, err := r.admit(ctx, s); !ok {
		return err
	}
	if s.plan.Install {
		if err := r.addInstall(ctx, s, &spec); err != nil {
			return err
		}
		if made, err := r.makeInstaller(s, spec); !made {
			return r.failIfTerminal(ctx, s, err)
		}
	} else if err := s.provider.EnsureMachine(ctx, spec); err != nil {
		return err
	}
	// An installer may have done its work while nobody looked, and is not to do it
	// once more.
	if m, err := s.provider.GetMachine(ctx, s.img.UID); err != nil || !s.plan.Install || !build.ShutDownByGuest(&m) {
		if err := errors.Join(err, s.provider.Start(ctx, s.img.UID)); err != nil {
			return err
		}
	}
	at := metav1.NewTime(s.now)
	s.img.Status.Build.StartedAt = &at
	if s.plan.Install {
		s.enter(v1.BuildInstalling)
	} else {
		s.enter(v1.BuildBooting)
	}
	return nil
}

// failIfTerminal notes that a build failed that would fail again, so that nothing
// is fetched and tried over and over.
func (r *Reconciler) failIfTerminal(ctx context.Context, s *state, err error) error {
	if !providers.IsTerminal(err) {
		return err
	}
	if s.img.Status.Build.Phase == v1.BuildInstalling {
		err = r.withConsole(ctx, s, err)
	}
	s.fail(err)
	return nil
}

// boot starts a machine that was installed, for its steps.
func (r *Reconciler) boot(ctx context.Context, s *state) error {
	if err := r.finishInstall(ctx, s); err != nil {
		return r.failIfTerminal(ctx, s, err)
	}
	if err := s.provider.Start(ctx, s.img.UID); err != nil {
		return err
	}
	s.enter(v1.BuildBooting)
	return nil
}

// provision starts the job of the steps. That it may have begun is written down
// before: nobody knows later how far it has come.
func (r *Reconciler) provision(ctx context.Context, s *state) error {
	img, p := s.img.DeepCopy(), s.provider
	run := build.Run{
		Steps: img.Spec.Provision, Agent: s.plan.Agent, User: img.Spec.Guest.User, Patience: r.o.Build.Limits.Guest,
	}
	if !run.Agent {
		key, err := r.o.Build.SSH.AuthorizedKey()
		if err != nil {
			return err
		}
		run.Key = key
	}
	s.enter(v1.BuildProvisioning)
	if err := r.persist(ctx, s); err != nil {
		return err
	}
	// What has to be ended is opened by the job: one that is cancelled before its
	// turn never runs.
	begun := ctx
	r.o.Build.Jobs.Ensure(s.key(s.wanted.Revision), func(ctx context.Context, report func(build.Progress)) (struct{}, error) {
		ctx = job.Logged(ctx, begun)
		end, err := r.open(&run, p, img)
		if err != nil {
			return struct{}{}, err
		}
		defer end()
		return struct{}{}, run.Do(ctx, report)
	})
	return nil
}

// open gives a run its guest and its log; end closes them.
func (r *Reconciler) open(run *build.Run, p providers.Provider, img *v1.GoldenImage) (end func(), err error) {
	run.Guest, end = agentGuest{p, img.UID}, func() {}
	if !run.Agent {
		run.Guest, end = r.o.Build.SSH.Reach(p, asSandbox(img), img)
	}
	if r.o.Build.Logs == nil {
		return end, nil
	}
	log, err := r.o.Build.Logs.Create(img.UID)
	if err != nil {
		end()
		return nil, fmt.Errorf("image %q: build log: %w", img.Name, err)
	}
	run.Log = log
	leave := end
	return func() { leave(); _ = log.Close() }, nil
}

// persist writes the status in the middle of a reconciliation.
func (r *Reconciler) persist(ctx context.Context, s *state) error {
	if err := r.writer.Status(ctx, s.before, s.img); err != nil {
		return err
	}
	s.before = s.img.DeepCopy()
	return nil
}

// restart removes the machine and begins again with a fresh one.
func (r *Reconciler) restart(ctx context.Context, s *state, step build.Step) error {
	if gone, err := r.discard(ctx, s); !gone {
		return err
	}
	b := s.img.Status.Build
	if step.Action == build.Retry {
		b.Attempt++
		r.event(s.img, corev1.EventTypeWarning, v1.ReasonProvisioning, "Build", "begun again with a fresh machine: %v", step.Err)
	}
	b.MachineID, b.StartedAt, b.Step, b.Message = string(s.img.UID), nil, "", step.Err.Error()
	s.enter(v1.BuildPreparing)
	return nil
}

// fail notes that a build failed. Its machine is removed once that is written down.
func (s *state) fail(err error) {
	b := s.img.Status.Build
	b.Reason, b.Message = providers.ReasonOf(err), err.Error()
	if f := (*build.Failure)(nil); errors.As(err, &f) {
		b.Reason, b.Message, b.ExitCode = f.Reason, f.Message, f.ExitCode
		b.Step = cmp.Or(f.Step, b.Step)
	}
	s.enter(v1.BuildFailed)
}

// failureOf is why a build failed, as the error that stalls its image.
func failureOf(name string, b *v1.ImageBuild) error {
	if b == nil || b.Phase != v1.BuildFailed {
		return nil
	}
	return providers.Errorf(providers.ErrInvalid, fmt.Sprintf("image %q", name), "its build failed: %s (%s has all of its output)", b.Message, "`sandboxd logs goldenimage/"+name+"`").WithReason(b.Reason)
}

// discardAgain is when to look whether jobs that were cancelled have ended.
const discardAgain = 200 * time.Millisecond

// discard ends the jobs of the build and removes its machine; true once nothing
// is left of it.
func (r *Reconciler) discard(ctx context.Context, s *state) (gone bool, err error) {
	b := s.img.Status.Build
	if b == nil || b.MachineID == "" {
		return true, nil
	}
	steps := func(k Key) bool { return k.Ref.UID == s.img.UID }
	sealing := func(k Key) bool { return k.Ref == s.ref(b.Revision) }
	r.o.Build.Jobs.Cancel(steps)
	r.o.Imports.Cancel(sealing)
	s.again = cacheLag
	if r.o.Build.Jobs.Active(steps) || r.o.Imports.Active(sealing) {
		s.again = discardAgain
		return false, nil
	}
	const tries = 3
	for range tries {
		err := s.provider.DeleteMachine(ctx, s.img.UID)
		if errors.Is(err, providers.ErrNotFound) {
			r.o.Capacity.Release(s.img.UID)
			b.MachineID, b.Reserved = "", nil
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, providers.Errorf(providers.ErrBusy, "machine "+string(s.img.UID), "still there after it was deleted")
}

func (r *Reconciler) object(s *state) string { return fmt.Sprintf("image %q", s.img.Name) }

func agentless(img *v1.GoldenImage) bool { return img.Spec.Guest.Agent == v1.GuestAgentNone }

// agentGuest is the guest of a machine, by its agent.
type agentGuest struct {
	p  providers.Provider
	id types.UID
}

// Exec implements build.Guest.
func (g agentGuest) Exec(ctx context.Context, req providers.ExecRequest) (providers.ExecResult, error) {
	return g.p.Exec(ctx, g.id, req)
}

// WriteFile implements build.Guest.
func (g agentGuest) WriteFile(ctx context.Context, path string, mode uint32, r io.Reader) error {
	return g.p.WriteFile(ctx, g.id, path, mode, r)
}
