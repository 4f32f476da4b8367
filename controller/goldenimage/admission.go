package goldenimage

import (
	"cmp"
	"context"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/capacity"
	"sandboxd.dev/sandboxd/providers"
)

// IsBuilt tells whether an image is built in a machine.
func IsBuilt(img *v1.GoldenImage) bool {
	return img.Spec.Source.ISO != nil || len(img.Spec.Provision) > 0
}

// AdmissionKey changes with everything that has an image looked at and that it may ask
// because of.
func AdmissionKey(img *v1.GoldenImage) capacity.Key {
	return capacity.Key{Generation: img.Generation, Of: img.Annotations[v1.AnnotationRebuild]}
}

// undecided notes that an error kept what a build needs from being told.
func (r *Reconciler) undecided(ctx context.Context, img *v1.GoldenImage, err error) {
	r.o.Capacity.Undecided(capacity.Who{Name: img.Name}, img.UID, capacity.UnknownFor(ctx, err))
}

// ComingNeed is about what an image is going to ask for.
func ComingNeed(img *v1.GoldenImage, o BuildOptions) capacity.Amount {
	if img.Status.ObservedGeneration == img.Generation && meta.IsStatusConditionTrue(img.Status.Conditions, v1.ConditionReady) {
		return capacity.Amount{}
	}
	return buildNeed(img, 0, o)
}

// buildNeed is what the machine takes that builds an image; base is the size of the
// disk that its own is a clone of.
func buildNeed(img *v1.GoldenImage, base int64, o BuildOptions) capacity.Amount {
	a := capacity.Amount{
		capacity.Memory: o.Memory, capacity.CPUs: int64(cmp.Or(img.Spec.Machine.CPUs, o.CPUs)),
		capacity.Disk: base, capacity.Sandboxes: 1,
	}
	if q := img.Spec.Machine.Memory; q != nil {
		a[capacity.Memory] = q.Value()
	}
	if iso := img.Spec.Source.ISO; iso != nil {
		a[capacity.Disk] = defaultDiskSize
		if q := iso.DiskSize; q != nil {
			a[capacity.Disk] = q.Value()
		}
	}
	return a
}

// admit has room reserved for the machine of a build, and writes down that it is.
// False while it waits for room: s.unadmitted says what for.
func (r *Reconciler) admit(ctx context.Context, s *state) (bool, error) {
	var base int64
	if s.base != nil {
		base = s.base.VirtualSize
	}
	want := buildNeed(s.img, base, r.o.Build)
	s.asked = true
	v := r.o.Capacity.Ask(capacity.Claim{
		Place: capacity.Place{Who: capacity.Who{Name: s.img.Name}, ID: s.img.UID, Created: s.img.CreationTimestamp.Time},
		Want:  want,
	})
	b := s.img.Status.Build
	switch {
	case v.Admitted && capacity.Reserved(b.Reserved) == want:
		return true, nil
	case v.Admitted:
		b.Reserved = want.Reservation()
		err := r.persist(ctx, s)
		return err == nil, err
	case v.TooLarge:
		return false, providers.Errorf(providers.ErrInvalid, r.object(s), "%s%s", builder, v.Message).WithReason(v.Reason)
	default:
		s.unadmitted, s.again = said(s.before, v), r.o.Resync
		return false, nil
	}
}

// builder is whom admission speaks of.
const builder = "the machine that builds it "

// said words what the machine of a build waits for: as before as long as that is a
// matter of moments.
func said(before *v1.GoldenImage, v capacity.Verdict) capacity.Verdict {
	v.Message = builder + v.Message
	c := meta.FindStatusCondition(before.Status.Conditions, v1.ConditionImported)
	if v.Passing && c != nil && strings.HasPrefix(c.Message, builder) {
		v.Reason, v.Message = c.Reason, c.Message
	}
	return v
}

// poweredOff releases what the machine of a build needs only while it runs.
func (r *Reconciler) poweredOff(s *state) {
	r.o.Capacity.PoweredOff(s.img.UID)
	s.img.Status.Build.Reserved = r.o.Capacity.Held(s.img.UID).Reservation()
}
