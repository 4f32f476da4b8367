package goldenimage

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// updateStatus derives the status of s.img from what is known.
func updateStatus(s *state) {
	st := &s.img.Status
	st.ObservedGeneration = s.img.Generation
	st.Clones = total(s.clones)
	for i := range st.Revisions {
		st.Revisions[i].Clones = s.clones[st.Revisions[i].Revision]
	}
	if s.base != nil {
		recordHeld(st, s.base, s.clones)
		describeRevision(s, s.base)
	}
	if s.sealed != nil {
		recordSealed(s)
		describeRevision(s, s.sealed)
	}
	for i, h := range st.Revisions {
		st.Revisions[i].Wanted = h.Revision == st.Revision || h.Revision == s.wanted.Revision || s.plan.Base != "" && h.Revision == s.plan.Base
	}
	recordOrigin(s)
	set := func(c metav1.Condition) {
		c.ObservedGeneration = s.img.Generation
		c.LastTransitionTime = metav1.NewTime(s.now)
		meta.SetStatusCondition(&st.Conditions, c)
	}
	set(verifiedCondition(s))
	set(importedCondition(s))
	if s.plan.Machine {
		set(provisionedCondition(s))
	} else if s.provider != nil {
		meta.RemoveStatusCondition(&st.Conditions, v1.ConditionProvisioned)
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
	st.Phase = phaseOf(s)
}

// recordSealed notes what new sandboxes are cloned from. Of a revision that was
// built the source's digest and format are those of its base.
func recordSealed(s *state) {
	st, source := &s.img.Status, s.sealed
	if s.base != nil {
		source = s.base
	}
	st.Revision, st.Digest, st.Format = s.sealed.Revision, source.Digest, source.Format
	st.VirtualSize = resource.NewQuantity(s.sealed.VirtualSize, resource.BinarySI)
	st.ActualSize = resource.NewQuantity(s.sealed.ActualSize, resource.BinarySI)
	recordHeld(st, s.sealed, s.clones)
}

func recordHeld(st *v1.GoldenImageStatus, held *providers.Image, clones map[string]int32) {
	if slices.ContainsFunc(st.Revisions, func(h v1.ImageRevision) bool { return h.Revision == held.Revision }) {
		return
	}
	at := metav1.NewTime(held.SealedAt)
	st.Revisions = append(st.Revisions, v1.ImageRevision{
		Revision: held.Revision, Digest: held.Digest, SealedAt: &at, Clones: clones[held.Revision],
	})
}

func verifiedCondition(s *state) metav1.Condition {
	c := metav1.Condition{Type: v1.ConditionVerified, Status: metav1.ConditionUnknown, Reason: v1.ReasonReconciling, Message: "the source has not been read yet"}
	switch {
	case s.sealed != nil || s.base != nil:
		c.Status = metav1.ConditionTrue
		c.Reason, c.Message = verifiedBy(s.img.Spec.Source)
	case errors.Is(s.err, providers.ErrUnavailable) && s.img.Status.Revision != "":
		c.Reason, c.Message = v1.ReasonUnavailable, "it was read before, and what was made of it cannot be looked at: "+s.err.Error()
	case s.err != nil && providers.ReasonOf(s.err) == providers.ReasonDigestMismatch:
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, providers.ReasonDigestMismatch, s.err.Error()
	}
	return c
}

// verifiedBy says what the digest of a sealed source was compared with. The
// provider seals none that differs.
func verifiedBy(source v1.ImageSource) (reason, message string) {
	disk, artifact := source.Disk, source.OCI
	switch {
	case disk != nil && disk.SHA256 != "":
		return v1.ReasonDigestMatches, "the source has the digest that the spec gives"
	case artifact != nil && (artifact.Digest != "" || strings.Contains(artifact.Reference, "@")):
		return v1.ReasonDigestMatches, "the artifact's manifest has the digest that the spec gives, and the disk the one that the manifest gives"
	case disk != nil && disk.ChecksumURL != "":
		return v1.ReasonChecksumMatches, "the source has the digest that the file at spec.source.disk.checksumURL gives"
	case source.ISO != nil && source.ISO.SHA256 != "":
		return v1.ReasonDigestMatches, "the installer has the digest that the spec gives; that of the installed disk is recorded in status.digest"
	case source.ISO != nil:
		return v1.ReasonDigestRecorded, "the spec gives no digest of the installer; that of the installed disk is recorded in status.digest"
	case source.Sandbox != nil:
		return v1.ReasonDigestRecorded, "it is a copy of a sandbox's disk, whose digest is recorded in status.digest"
	}
	return v1.ReasonDigestRecorded, "the spec gives no digest: the source's is recorded in status.digest"
}

func importedCondition(s *state) metav1.Condition {
	c := metav1.Condition{Type: v1.ConditionImported, Status: metav1.ConditionFalse}
	switch {
	case s.sealed != nil:
		c.Status, c.Reason = metav1.ConditionTrue, v1.ReasonImported
		c.Message = "revision " + s.sealed.Revision + " is sealed"
	case errors.Is(s.err, providers.ErrUnavailable):
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, v1.ReasonUnavailable, s.err.Error()
	case s.err != nil:
		c.Reason, c.Message = providers.ReasonOf(s.err), s.err.Error()
	case s.unadmitted.Reason != "":
		c.Reason, c.Message = s.unadmitted.Reason, s.unadmitted.Message
	case s.building != "":
		c.Reason, c.Message = v1.ReasonProvisioning, s.building
	default:
		c.Reason, c.Message = v1.ReasonImporting, progressMessage(s.progress)
	}
	return c
}

// provisionedCondition is about an image that is built in a machine.
func provisionedCondition(s *state) metav1.Condition {
	c := metav1.Condition{Type: v1.ConditionProvisioned, Status: metav1.ConditionFalse}
	switch {
	case s.sealed != nil:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1.ReasonProvisioned, "all steps were run before the image was sealed"
	case errors.Is(s.err, providers.ErrUnavailable):
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, v1.ReasonUnavailable, s.err.Error()
	case s.err != nil:
		c.Reason, c.Message = providers.ReasonOf(s.err), s.err.Error()
	case s.unadmitted.Reason != "":
		c.Reason, c.Message = s.unadmitted.Reason, s.unadmitted.Message
	case s.building != "":
		c.Reason, c.Message = v1.ReasonProvisioning, s.building
	default:
		c.Reason, c.Message = v1.ReasonReconciling, "waiting for the source to be imported"
	}
	return c
}

func progressMessage(p *providers.Progress) string {
	switch {
	case p == nil || p.Stage == "":
		return "the import is about to begin"
	case p.Total > 0:
		return fmt.Sprintf("%s: %d%% of %s", p.Stage, int64(100*(float64(p.Done)/float64(p.Total))), sizeOf(p.Total))
	case p.Done > 0:
		return fmt.Sprintf("%s: %s so far", p.Stage, sizeOf(p.Done))
	default:
		return p.Stage
	}
}

// sizeOf words a number of bytes, rounded to what people read.
func sizeOf(bytes int64) string {
	const mebi, gibi = 1 << 20, 1 << 30
	switch {
	case bytes >= 10*gibi:
		return fmt.Sprintf("%dGi", (bytes+gibi/2)/gibi)
	case bytes >= mebi:
		return fmt.Sprintf("%dMi", (bytes+mebi/2)/mebi)
	}
	return fmt.Sprintf("%dKi", (bytes+1023)/1024)
}

func readyCondition(s *state) metav1.Condition {
	c := metav1.Condition{Type: v1.ConditionReady, Status: metav1.ConditionFalse}
	switch {
	case !s.img.DeletionTimestamp.IsZero() && len(s.sandboxes) > 0:
		c.Reason, c.Message = v1.ReasonInUse, "to be deleted once it is not used any more by "+usedBy(s.sandboxes)
	case !s.img.DeletionTimestamp.IsZero():
		c.Reason, c.Message = v1.ReasonDeleting, "the image is being removed"
		if s.err != nil {
			c.Message += ": " + s.err.Error()
		}
	case s.sealed != nil && (s.err == nil || errors.Is(s.err, providers.ErrBusy)):
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1.ReasonAsSpecified, "sandboxes can be cloned from it"
	default:
		cause := importedCondition(s)
		c.Reason, c.Message = cause.Reason, cause.Message
	}
	return c
}

// phaseOf summarizes the conditions. It is for printing only.
func phaseOf(s *state) v1.ImagePhase {
	conditions := s.img.Status.Conditions
	switch {
	case !s.img.DeletionTimestamp.IsZero():
		return v1.ImageTerminating
	case meta.IsStatusConditionTrue(conditions, v1.ConditionStalled):
		return v1.ImageFailed
	case meta.IsStatusConditionTrue(conditions, v1.ConditionReady):
		return v1.ImageReady
	case s.unadmitted.Reason != "":
		return v1.ImagePending
	case s.building != "":
		return v1.ImageBuilding
	case s.progress != nil:
		return v1.ImageImporting
	default:
		return v1.ImagePending
	}
}
