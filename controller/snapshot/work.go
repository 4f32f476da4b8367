package snapshot

import (
	"context"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/job"
	"sandboxd.dev/sandboxd/providers"
)

// takeLimit bounds the taking of one snapshot, while nothing else happens to the
// machine: the memory of a large machine on a slow disk takes minutes.
const takeLimit = 15 * time.Minute

// verb of a job.
type verb string

const (
	verbTake   verb = "take"
	verbDelete verb = "delete"
)

// Key names a job.
type Key struct {
	// Namespace, Name and Sandbox of the SandboxSnapshot, to wake their reconcilers.
	Namespace, Name, Sandbox string
	Ref                      providers.SnapshotRef
	verb                     verb
}

// Work takes and deletes snapshots.
type Work = job.Runner[Key, struct{}, providers.Snapshot]

func (s *state) key(v verb) Key {
	return Key{Namespace: s.snap.Namespace, Name: s.snap.Name, Sandbox: s.snap.Spec.Sandbox, Ref: s.ref(), verb: v}
}

// take has the state taken, or sees how that stands. An error that it returns is of
// the API.
func (r *Reconciler) take(ctx context.Context, s *state) error {
	key := s.key(verbTake)
	if s.snap.Status.Provider == "" {
		s.snap.Status.Provider = s.provider.Name()
		s.working = true
		updateStatus(s)
		if err := r.write(ctx, s); err != nil {
			return err
		}
	}
	begun, p, spec := ctx, s.provider, providers.SnapshotSpec{
		SnapshotRef: key.Ref, Namespace: key.Namespace, Name: key.Name, Memory: s.snap.Spec.Memory,
	}
	st := r.o.Work.Ensure(key, func(ctx context.Context, _ func(struct{})) (providers.Snapshot, error) {
		return r.takeInTurn(job.Logged(ctx, begun), p, spec)
	})
	if s.working = !st.Done; s.working {
		return nil
	}
	// Not kept: what stands in the way may go without a change of the snapshot, whose
	// spec cannot change.
	r.o.Work.Forget(key)
	if s.err = st.Err; s.err == nil {
		s.held = &st.Result
	}
	return nil
}

func (r *Reconciler) takeInTurn(ctx context.Context, p providers.Provider, spec providers.SnapshotSpec) (providers.Snapshot, error) {
	release, err := r.o.Turns.Take(ctx, spec.Machine)
	if err != nil {
		return providers.Snapshot{}, err
	}
	defer release()
	bounded, cancel := context.WithTimeout(ctx, takeLimit)
	defer cancel()
	before, err := p.GetMachine(bounded, spec.Machine)
	if err != nil {
		return providers.Snapshot{}, err
	}
	taken, err := p.TakeSnapshot(bounded, spec)
	if err != nil && before.Power == providers.PowerRunning {
		goOn(ctx, p, spec.Machine)
	}
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		return taken, providers.Errorf(providers.ErrUnavailable, "snapshot "+spec.Namespace+"/"+spec.Name,
			"it was not taken within %v", takeLimit)
	}
	return taken, err
}

// goOnLimit bounds the time until a machine goes on whose state was not taken.
const goOnLimit = 20 * time.Second

// goOn lets a machine go on that ran before the taking of a snapshot failed or was
// cancelled, also when the daemon is about to end. If it does not succeed, the
// reconciler of the sandbox does.
func goOn(ctx context.Context, p providers.Provider, id types.UID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goOnLimit)
	defer cancel()
	m, err := p.GetMachine(ctx, id)
	if err == nil && (m.Power == providers.PowerPaused || m.Power == providers.PowerSaved) {
		_ = p.Start(ctx, id)
	}
}

// cancel ends the taking of a snapshot, and tells whether that has returned.
func (r *Reconciler) cancel(s *state) bool {
	key := s.key(verbTake)
	same := func(k Key) bool { return k == key }
	r.o.Work.Cancel(same)
	s.cancelling = r.o.Work.Active(same)
	s.working = s.cancelling
	return !s.cancelling
}

// remove has the snapshot removed, or sees how that stands: s.working is true until
// nothing is left of it.
func (r *Reconciler) remove(begun context.Context, s *state) error {
	if !r.cancel(s) || s.provider == nil {
		return nil
	}
	if s.snap.Status.Provider == "" {
		return nil // it was not begun
	}
	key, p := s.key(verbDelete), s.provider
	st := r.o.Work.Ensure(key, func(ctx context.Context, _ func(struct{})) (providers.Snapshot, error) {
		return providers.Snapshot{}, deleteUntilGone(job.Logged(ctx, begun), p, key.Ref)
	})
	if s.working = !st.Done; s.working {
		return nil
	}
	r.o.Work.Forget(key)
	return st.Err
}

func deleteUntilGone(ctx context.Context, p providers.Provider, ref providers.SnapshotRef) error {
	const tries = 3
	for range tries {
		err := p.DeleteSnapshot(ctx, ref)
		if errors.Is(err, providers.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return providers.Errorf(providers.ErrBusy, "snapshot "+ref.String(), "still there after it was deleted")
}

func object(snap *v1.SandboxSnapshot) string { return "snapshot " + snap.Namespace + "/" + snap.Name }
