package snapshot

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/patch"
	"sandboxd.dev/sandboxd/providers"
)

// updateStatus derives the status of s.snap from what is known.
func updateStatus(s *state) {
	st := &s.snap.Status
	st.ObservedGeneration = s.snap.Generation
	st.Forks = int32(len(s.forks)) //nolint:gosec // as many as fit into memory
	if s.held != nil {
		recordHeld(st, s)
	}
	set := func(c metav1.Condition) {
		c.ObservedGeneration = s.snap.Generation
		c.LastTransitionTime = metav1.NewTime(s.now)
		meta.SetStatusCondition(&st.Conditions, c)
	}
	set(readyCondition(s))
	if providers.IsTerminal(s.err) {
		set(metav1.Condition{
			Type: v1.ConditionStalled, Status: metav1.ConditionTrue,
			Reason: providers.ReasonOf(s.err), Message: s.err.Error(),
		})
	} else {
		meta.RemoveStatusCondition(&st.Conditions, v1.ConditionStalled)
	}
	st.Phase = phaseOf(s.snap)
}

func recordHeld(st *v1.SandboxSnapshotStatus, s *state) {
	st.ImageRevision, st.Frozen = s.held.Image.Revision, s.held.Frozen
	if st.Image == "" && (s.owner == ownerPresent || s.owner == ownerDeleting) {
		st.Image = s.sandbox.Spec.Image
	}
	if st.TakenAt == nil {
		at := metav1.NewTime(s.held.TakenAt)
		st.TakenAt = &at
	}
	if st.Size == nil || st.Size.Value() != s.held.Size {
		st.Size = resource.NewQuantity(s.held.Size, resource.BinarySI)
	}
}

func readyCondition(s *state) metav1.Condition {
	c := metav1.Condition{Type: v1.ConditionReady, Status: metav1.ConditionFalse}
	switch {
	case s.last.action == actHold:
		c.Reason, c.Message = v1.ReasonInUse, "to be deleted once "+UsedBy("its", s.forks)+" gone"
	case s.last.action == actFollow:
		c.Reason, c.Message = v1.ReasonDeleting, fmt.Sprintf("it goes along with sandbox %q, which is being deleted", s.snap.Spec.Sandbox)
	case s.deleting():
		c.Reason, c.Message = v1.ReasonDeleting, "the snapshot is being removed"
		if s.err != nil {
			c.Message += ": " + s.err.Error()
		}
	case errors.Is(s.err, providers.ErrUnavailable) && s.snap.Status.TakenAt != nil:
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, v1.ReasonUnavailable, s.err.Error()
	case s.err != nil:
		c.Reason, c.Message = providers.ReasonOf(s.err), s.err.Error()
	case s.held != nil:
		c.Status, c.Reason = metav1.ConditionTrue, v1.ReasonAsSpecified
		c.Message = "the state" + withMemory(s.held.Memory) + " is kept"
		if !s.held.Frozen {
			c.Message += ", of a guest whose file systems were not held still: it may lack what was not written yet"
		}
	case s.last.action == actWait:
		c.Reason, c.Message = waiting(s)
	default:
		c.Reason, c.Message = v1.ReasonTaking, fmt.Sprintf("the state of sandbox %q is being kept", s.snap.Spec.Sandbox)
	}
	return c
}

// waiting says what a snapshot waits for.
func waiting(s *state) (reason, message string) {
	name := s.snap.Spec.Sandbox
	switch s.last.why {
	case whyAbsent:
		return v1.ReasonSandboxNotFound, fmt.Sprintf("waits for sandbox %q to be made: it does not exist", name)
	case whyUnmade:
		return v1.ReasonSandboxNotReady, fmt.Sprintf("waits for sandbox %q to be made%s", name, because(s.sandbox))
	case whyDeleting:
		return v1.ReasonSandboxNotReady, fmt.Sprintf("sandbox %q is being deleted", name)
	case whyStopping:
		return v1.ReasonSandboxNotReady, fmt.Sprintf("sandbox %q is shutting down: waits until it is off", name)
	case whyOff:
		return v1.ReasonSandboxNotReady, fmt.Sprintf("sandbox %q is off, and has no memory to keep: start it, or take a snapshot without memory", name)
	default:
		return v1.ReasonSandboxNotReady, fmt.Sprintf("waits for sandbox %q to be up%s", name, because(s.sandbox))
	}
}

// because repeats what keeps a sandbox from being up. It does not go by its Ready
// condition: that may say in turn that it waits for the snapshot.
func because(sbx *v1.Sandbox) string {
	if sbx == nil {
		return ""
	}
	for _, t := range []string{v1.ConditionProvisioned, v1.ConditionPoweredOn, v1.ConditionGuestReady} {
		if c := meta.FindStatusCondition(sbx.Status.Conditions, t); c != nil && c.Status != metav1.ConditionTrue && c.Message != "" {
			return ": " + c.Message
		}
	}
	return ""
}

// phaseOf summarizes the conditions. It is for printing only.
func phaseOf(snap *v1.SandboxSnapshot) v1.SnapshotPhase {
	switch conditions := snap.Status.Conditions; {
	case !snap.DeletionTimestamp.IsZero():
		return v1.SnapshotTerminating
	case meta.IsStatusConditionTrue(conditions, v1.ConditionStalled):
		return v1.SnapshotFailed
	case meta.IsStatusConditionTrue(conditions, v1.ConditionReady):
		return v1.SnapshotReady
	default:
		return v1.SnapshotPending
	}
}

// told tells whether the Ready condition says something new.
func (s *state) told() bool {
	return patch.ReadyChanged(s.read.Status.Conditions, s.snap.Status.Conditions)
}

// Forks names the sandboxes that have machines, in order. Sandboxes without one have
// not begun from anything yet; what the provider knows better it refuses.
func Forks(sandboxes []v1.Sandbox) []string {
	var names []string
	for i := range sandboxes {
		if sandboxes[i].Status.MachineID != "" {
			names = append(names, sandboxes[i].Name)
		}
	}
	slices.Sort(names)
	return names
}

// UsedBy says which forks must go first, for a message: "its 2 forks a, b are".
func UsedBy(whose string, forks []string) string {
	const most = 5
	shown := forks
	if len(shown) > most {
		shown = append(slices.Clone(shown[:most]), "…")
	}
	if len(forks) == 1 {
		return fmt.Sprintf("%s fork %s is", whose, forks[0])
	}
	return fmt.Sprintf("%s %d forks %s are", whose, len(forks), strings.Join(shown, ", "))
}

func withMemory(memory bool) string {
	if memory {
		return " with its memory"
	}
	return ""
}

// Said is what others go by of what is said of a snapshot.
func Said(snap *v1.SandboxSnapshot) string {
	if c := meta.FindStatusCondition(snap.Status.Conditions, v1.ConditionReady); c != nil {
		return string(c.Status) + c.Reason + c.Message
	}
	return ""
}
