package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/artifact"
	"sandboxd.dev/sandboxd/providers"
)

// Artifacts are due from when the machine runs until they were copied out:
//
//	started ─▶ due ─▶ off ─┬─ copied ─▶ size, digest, collectedAt
//	                       ├─ never possible ─▶ message, event
//	                       └─ the host is in the way ─▶ tried again; a start, a revert
//	                          or a deletion waits for it, artifactPatience at most
//
// That they are due is written before the machine is started, so none is forgotten,
// and none is copied twice for one stop unless the daemon was killed in between.

// DiskReader copies files out of disks, without the guest's help. ErrNotFound,
// ErrUnsupported and ErrInvalid mean that it can never be done; an error of w is
// returned as it is.
type DiskReader interface {
	Pack(ctx context.Context, p providers.Provider, ref providers.DiskRef, path string, maxBytes int64, w io.Writer) error
}

const (
	// defaultArtifactSize is the default of Artifact.MaxSize, in bytes.
	defaultArtifactSize = 1 << 30
	// artifactTimeout bounds the copying of one artifact.
	artifactTimeout = 10 * time.Minute
	// artifactPatience is how long a start, a revert or a deletion waits for a host that
	// is in the way.
	artifactPatience = 10 * time.Minute
)

// artifactStep is what is to be done about artifacts that are due.
type artifactStep int

const (
	artifactsWait    artifactStep = iota // nothing is due, or the machine runs
	artifactsStop                        // the machine must be off first
	artifactsCollect                     // copy them out
	artifactsForget                      // there is no machine to copy them out of
)

// nextArtifacts decides. m is nil when there is no machine.
func nextArtifacts(m *providers.Machine, due, deleting bool) artifactStep {
	switch {
	case !due:
		return artifactsWait
	case m == nil:
		return artifactsForget
	case m.Power == providers.PowerOff, deleting && m.Power == providers.PowerSaved:
		return artifactsCollect
	case deleting:
		return artifactsStop
	default:
		return artifactsWait
	}
}

// outcome of an attempt to copy an artifact out.
type artifactOutcome int

const (
	artifactDone   artifactOutcome = iota
	artifactFailed                 // it can never be done
	artifactRetry                  // the host was in the way
	artifactGiveUp                 // the host was in the way for too long
)

// judgeArtifact decides what an attempt came to. since is when the first one failed;
// awaited is since when something waits for it, zero when nothing does.
func judgeArtifact(err error, since, awaited, now time.Time) artifactOutcome {
	switch kind := providers.KindOf(err); {
	case err == nil:
		return artifactDone
	case kind == providers.ErrNotFound, kind == providers.ErrUnsupported, kind == providers.ErrInvalid, errors.Is(err, artifact.ErrTooLarge):
		return artifactFailed
	case awaited.IsZero():
		return artifactRetry
	}
	if awaited.After(since) {
		since = awaited
	}
	if now.Sub(since) >= artifactPatience {
		return artifactGiveUp
	}
	return artifactRetry
}

// artifactStatus finds the status of an artifact, or adds one.
func artifactStatus(st *v1.SandboxStatus, name string) *v1.ArtifactStatus {
	for i := range st.Artifacts {
		if st.Artifacts[i].Name == name {
			return &st.Artifacts[i]
		}
	}
	st.Artifacts = append(st.Artifacts, v1.ArtifactStatus{Name: name})
	return &st.Artifacts[len(st.Artifacts)-1]
}

// armArtifacts makes all artifacts due. It returns whether that is news.
func armArtifacts(sbx *v1.Sandbox) bool {
	before := len(sbx.Status.Artifacts)
	sbx.Status.Artifacts = slices.DeleteFunc(sbx.Status.Artifacts, func(st v1.ArtifactStatus) bool {
		return !slices.ContainsFunc(sbx.Spec.Artifacts, func(a v1.Artifact) bool { return a.Name == st.Name })
	})
	changed := len(sbx.Status.Artifacts) != before
	for _, a := range sbx.Spec.Artifacts {
		if st := artifactStatus(&sbx.Status, a.Name); !st.Due {
			st.Due, st.WaitingSince, changed = true, nil, true
		}
	}
	return changed
}

// dueArtifacts are those that are to be copied out of the machine's last run.
func dueArtifacts(sbx *v1.Sandbox) []v1.Artifact {
	var due []v1.Artifact
	for _, a := range sbx.Spec.Artifacts {
		if slices.ContainsFunc(sbx.Status.Artifacts, func(st v1.ArtifactStatus) bool { return st.Name == a.Name && st.Due }) {
			due = append(due, a)
		}
	}
	return due
}

// beforeStart writes down that artifacts are due, before the guest can make any.
func (r *Reconciler) beforeStart(ctx context.Context, v *view) error {
	if !armArtifacts(v.sbx) {
		return nil
	}
	return r.write(ctx, v)
}

// artifacts copies out what is due of a machine that is not being deleted. The error
// is that of a host that is in the way.
func (r *Reconciler) artifacts(ctx context.Context, p providers.Provider, v *view) error {
	if m := v.machine; m != nil && m.Power == providers.PowerRunning {
		armArtifacts(v.sbx) // also those that were added since it was started
	}
	due := dueArtifacts(v.sbx)
	var awaited time.Time
	if v.sbx.Spec.PowerState == v1.PowerRunning || v.mayRevert() {
		awaited = v.sbx.CreationTimestamp.Time // a start, a restart, or a revert
	}
	switch nextArtifacts(v.machine, len(due) > 0, false) {
	case artifactsCollect:
		return r.collect(ctx, p, v, due, awaited)
	case artifactsForget:
		r.forgetArtifacts(v.sbx, due)
	}
	return nil
}

// artifactsBeforeDelete copies out what is due before the machine goes. It returns
// after when to look again, and done when nothing is due any more.
func (r *Reconciler) artifactsBeforeDelete(ctx context.Context, before, sbx *v1.Sandbox) (done bool, after time.Duration, err error) {
	due := dueArtifacts(sbx)
	if len(due) == 0 || sbx.Status.Provider == "" {
		return true, 0, nil
	}
	p, err := r.o.Providers.Get(sbx.Status.Provider)
	if err != nil {
		return false, 0, err
	}
	v := &view{sbx: sbx, before: before, now: r.o.Clock.Now()}
	if v.machine, err = observe(ctx, p, sbx.UID); err != nil {
		return false, 0, err
	}
	switch nextArtifacts(v.machine, true, true) {
	case artifactsStop:
		v.desired = desired{Power: v1.PowerStopped}
		if r.stop(ctx, p, v); v.err != nil {
			return false, 0, v.err
		}
		after = max(v.last.after, cacheLag)
		deletingStatus(sbx, wait{v1.ReasonDeleting, "the guest is shut down first, and its artifacts are copied out"}, r.o.Clock.Now())
		return false, after, r.write(ctx, v)
	case artifactsForget:
		r.forgetArtifacts(sbx, due)
	case artifactsCollect:
		err = r.collect(ctx, p, v, due, sbx.DeletionTimestamp.Time)
	}
	if werr := r.write(ctx, v); werr != nil {
		return false, 0, werr
	}
	return err == nil, 0, err
}

func (r *Reconciler) forgetArtifacts(sbx *v1.Sandbox, due []v1.Artifact) {
	for _, a := range due {
		r.recordArtifact(sbx, artifactStatus(&sbx.Status, a.Name), "the machine had disappeared before it could be copied out")
	}
}

// collect copies artifacts out of a disk, and returns the first error for which it is
// tried again.
func (r *Reconciler) collect(ctx context.Context, p providers.Provider, v *view, due []v1.Artifact, awaited time.Time) error {
	var first error
	for _, a := range due {
		st := artifactStatus(&v.sbx.Status, a.Name)
		path, file, err := r.copyOut(ctx, p, v.sbx, a)
		now := metav1.NewTime(r.o.Clock.Now())
		if err != nil && st.WaitingSince == nil {
			st.WaitingSince = &now
		}
		switch judgeArtifact(err, timeOf(st.WaitingSince), awaited, now.Time) {
		case artifactDone:
			*st = v1.ArtifactStatus{Name: a.Name, Path: path, Size: file.Size, Digest: file.Digest, CollectedAt: &now}
			r.event(v.sbx, corev1.EventTypeNormal, "ArtifactCollected", "Collect", "artifact %s was copied to %s", a.Name, path)
		case artifactFailed:
			r.recordArtifact(v.sbx, st, artifactWords(a, err))
		case artifactGiveUp:
			r.recordArtifact(v.sbx, st, fmt.Sprintf("given up after %v: %s", artifactPatience, artifactWords(a, err)))
		case artifactRetry:
			st.Message = artifactWords(a, err)
			if first == nil {
				kind := providers.ErrUnavailable
				if noSpace(err) {
					kind = providers.ErrCapacity
				}
				first = providers.Errorf(kind, "sandbox "+v.sbx.Namespace+"/"+v.sbx.Name,
					"artifact %s waits to be copied out: %s", a.Name, st.Message)
			}
		}
	}
	return first
}

// recordArtifact writes down why an artifact was not copied out, and will not be.
func (r *Reconciler) recordArtifact(sbx *v1.Sandbox, st *v1.ArtifactStatus, why string) {
	*st = v1.ArtifactStatus{Name: st.Name, Message: why}
	r.event(sbx, corev1.EventTypeWarning, "ArtifactFailed", "Collect", "artifact %s was not copied out: %s", st.Name, why)
}

// artifactWords says why, without what names the machine.
func artifactWords(a v1.Artifact, err error) string {
	if errors.Is(err, artifact.ErrTooLarge) {
		return fmt.Sprintf("%s is larger than %d bytes: raise maxSize", a.Path, artifactSize(a))
	}
	if noSpace(err) {
		return fmt.Sprintf("no space is left in %s: make room there", a.HostPath)
	}
	var e *providers.Error
	if errors.As(err, &e) && e.Err != nil {
		err = e.Err
	}
	const most = 500
	text := strings.Join(strings.Fields(err.Error()), " ")
	return strings.ToValidUTF8(text[:min(len(text), most)], "")
}

func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func artifactSize(a v1.Artifact) int64 {
	if a.MaxSize == nil {
		return defaultArtifactSize
	}
	return a.MaxSize.Value()
}

// copyOut copies one artifact.
func (r *Reconciler) copyOut(ctx context.Context, p providers.Provider, sbx *v1.Sandbox, a v1.Artifact) (string, artifact.File, error) {
	if r.o.Disks == nil {
		return "", artifact.File{}, providers.Errorf(providers.ErrUnsupported, "artifact "+a.Name, "this daemon reads no disks")
	}
	// What the policy says of the path may change with what is there: whatever it
	// is, the host's owner can put it right.
	dir, err := r.o.HostPaths.Dir(a.HostPath)
	if err != nil {
		return "", artifact.File{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, artifactTimeout)
	defer cancel()
	name := sbx.Namespace + "." + sbx.Name + "." + a.Name + ".tar"
	file, err := artifact.Write(dir, name, artifactSize(a), func(w io.Writer) error {
		return r.o.Disks.Pack(ctx, p, providers.DiskRef{Machine: sbx.UID}, a.Path, artifactSize(a), w)
	})
	return strings.TrimSuffix(dir, "/") + "/" + name, file, err
}
