package sandbox

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/capacity"
	"sandboxd.dev/sandboxd/controller/snapshot"
	"sandboxd.dev/sandboxd/providers"
)

// room is what a reconciliation knows of the host's capacity.
type room struct {
	// unadmitted says what of it is waited for, if it is; asked that it was asked for
	// any, or has some.
	unadmitted wait
	asked      bool
	// parentDisk is the size of the disk that a fork's is a clone of, if it is known.
	parentDisk int64
}

// Need is what a sandbox's machine takes while it runs. Without its image, what it
// does not say itself is unknown and 0.
func Need(sbx *v1.Sandbox, img *v1.GoldenImage, d Defaults) capacity.Amount {
	a := capacity.Amount{capacity.Sandboxes: 1, capacity.CPUs: int64(sbx.Spec.CPUs)}
	memory, disk := sbx.Spec.Memory, sbx.Spec.DiskSize
	if img != nil {
		a[capacity.CPUs] = int64(firstSet(sbx.Spec.CPUs, img.Spec.Machine.CPUs, d.CPUs))
		memory = firstQuantity(memory, img.Spec.Machine.Memory, &d.Memory)
		disk = firstQuantity(disk, sizeOf(img, sbx.Status.ImageRevision))
	}
	if memory != nil {
		a[capacity.Memory] = memory.Value()
	}
	if disk != nil {
		a[capacity.Disk] = disk.Value()
	}
	return a
}

// ComingNeed is about what a sandbox is going to ask for, by its spec alone.
func ComingNeed(sbx *v1.Sandbox, img *v1.GoldenImage, d Defaults) capacity.Amount {
	a := Need(sbx, img, d)
	switch {
	case img == nil || sbx.Spec.FromSnapshot == "" && sbx.Status.MachineID == "" && !imageReady(img, sbx):
		return capacity.Amount{} // it has to wait for something else
	case sbx.Spec.PowerState == v1.PowerStopped || sbx.Spec.PowerState == v1.PowerSuspended:
		return atRest(a)
	default:
		return a
	}
}

// AdmissionKey changes with everything that has a sandbox looked at and that it may ask
// because of. Its image, and the snapshot that it begins from, are nil when there is none.
func AdmissionKey(sbx *v1.Sandbox, img *v1.GoldenImage, from *v1.SandboxSnapshot) capacity.Key {
	key := capacity.Key{Generation: sbx.Generation}
	switch {
	case from != nil:
		key.Of = snapshot.Said(from)
	case img != nil && imageReady(img, sbx):
		key.Of = img.Status.Revision
	}
	return key
}

// undecided notes that an error kept what a sandbox needs from being told.
func (r *Reconciler) undecided(ctx context.Context, sbx *v1.Sandbox, err error) {
	r.o.Capacity.Undecided(whoIs(sbx), sbx.UID, capacity.UnknownFor(ctx, err))
}

// sizeOf is the size of the disks of a revision of an image; nil when it is not known.
func sizeOf(img *v1.GoldenImage, revision string) *resource.Quantity {
	for _, held := range img.Status.Revisions {
		if held.Revision == revision && held.VirtualSize != nil {
			return held.VirtualSize
		}
	}
	return img.Status.VirtualSize
}

// findParent finds out how large the disk of a fork is going to be: as large as that
// of the sandbox whose snapshot it begins from.
func (r *Reconciler) findParent(ctx context.Context, v *view) error {
	if v.origin.snap == nil {
		return nil
	}
	parent := &v1.Sandbox{}
	err := r.o.Client.Get(ctx, types.NamespacedName{Namespace: v.sbx.Namespace, Name: v.origin.snap.Spec.Sandbox}, parent)
	if err == nil {
		v.parentDisk = capacity.Reserved(parent.Status.Reserved)[capacity.Disk]
	}
	return client.IgnoreNotFound(err)
}

// atRest is what a machine keeps while it is off.
func atRest(a capacity.Amount) capacity.Amount {
	a[capacity.Memory], a[capacity.CPUs] = 0, 0
	return a
}

// saved is what a machine keeps while it is suspended: its memory is on the disk.
func saved(a capacity.Amount) capacity.Amount {
	a[capacity.Disk] += a[capacity.Memory]
	return atRest(a)
}

func whoIs(sbx *v1.Sandbox) capacity.Who {
	return capacity.Who{Namespace: sbx.Namespace, Name: sbx.Name}
}

// admit has room reserved for the step that is next, and what is not needed any more
// released. It returns false when the step has to wait, or cannot be.
func (r *Reconciler) admit(ctx context.Context, v *view) bool {
	has := r.has(v)
	want, urgent := r.wants(v, has)
	v.asked, v.unadmitted = true, wait{}
	if has.Covers(want) {
		r.o.Capacity.Keep(whoIs(v.sbx), v.sbx.UID, has)
		v.reserve(has)
		return true
	}
	verdict := r.o.Capacity.Ask(capacity.Claim{
		Place: capacity.Place{Who: whoIs(v.sbx), ID: v.sbx.UID, Created: v.sbx.CreationTimestamp.Time, Urgent: urgent},
		Base:  has, Want: want,
	})
	if verdict.Admitted {
		return r.admitted(ctx, v, want)
	}
	v.sbx.Status.Reserved = has.Reservation()
	v.unadmitted = wait{verdict.Reason, verdict.Message}
	if c := meta.FindStatusCondition(v.sbx.Status.Conditions, v1.ConditionAdmitted); c != nil && c.Status == metav1.ConditionFalse {
		if verdict.Passing { // what was said still holds, as far as anybody knows
			v.unadmitted = wait{c.Reason, c.Message}
		}
	} else if !verdict.Passing && !verdict.TooLarge {
		r.event(v.sbx, corev1.EventTypeWarning, verdict.Reason, "Admit", "%s", verdict.Message)
	}
	if verdict.TooLarge {
		v.err = providers.Errorf(providers.ErrInvalid, "sandbox "+v.sbx.Namespace+"/"+v.sbx.Name, "%s", verdict.Message).WithReason(verdict.Reason)
	}
	v.last = step{action: actWait, why: whyCapacity}
	if v.machine != nil { // which may be one whose isolation is not seen
		v.last = recheck(v.last, observedOf(v))
	}
	return false
}

// admitted writes down what is reserved before it is used, so that it is known after
// a crash.
func (r *Reconciler) admitted(ctx context.Context, v *view, want capacity.Amount) bool {
	known := capacity.Reserved(v.sbx.Status.Reserved) == want
	v.reserve(want)
	if budget, _, _ := r.o.Capacity.Totals(); known || budget == capacity.NoLimit() {
		return true
	}
	v.err = r.write(ctx, v)
	return v.err == nil
}

// reserve notes what is reserved for the machine.
func (v *view) reserve(a capacity.Amount) {
	st := &v.sbx.Status
	st.Reserved = a.Reservation()
	setWhileTrue(st, admittedCondition(a), func(c metav1.Condition) {
		c.ObservedGeneration, c.LastTransitionTime = v.sbx.Generation, metav1.NewTime(v.now)
		meta.SetStatusCondition(&st.Conditions, c)
	})
}

func admittedCondition(a capacity.Amount) metav1.Condition {
	c := metav1.Condition{Type: v1.ConditionAdmitted, Status: metav1.ConditionFalse}
	if a != (capacity.Amount{}) {
		a[capacity.Sandboxes] = 0 // goes without saying
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1.ReasonReserved, "reserved: "+a.String()
	}
	return c
}

// notAdmitted puts into the status what is waited for, if anything is.
func notAdmitted(v view, set func(metav1.Condition)) {
	if v.unadmitted.reason != "" {
		set(metav1.Condition{
			Type: v1.ConditionAdmitted, Status: metav1.ConditionFalse,
			Reason: v.unadmitted.reason, Message: v.unadmitted.message,
		})
	}
}

// account notes what the machine has of a sandbox that gets no further: nothing is
// reserved for what is not going to be.
func (r *Reconciler) account(v *view) {
	if v.unadmitted.reason != "" {
		return
	}
	has := r.has(v)
	v.asked = true
	r.o.Capacity.Keep(whoIs(v.sbx), v.sbx.UID, has)
	v.reserve(has)
}

// has is what the machine takes as it was seen.
func (r *Reconciler) has(v *view) capacity.Amount {
	if v.machine == nil {
		return capacity.Amount{}
	}
	known, a := r.o.Capacity.Held(v.sbx.UID), r.need(v)
	if v.machine.Hashes.Hardware == v.desired.Hashes.Hardware && v.img != nil && v.sbx.Spec.FromSnapshot == "" {
		known = capacity.Amount{} // it is as the spec says
	}
	for resource, n := range known {
		if n > 0 {
			a[resource] = n
		}
	}
	switch v.machine.Power {
	case providers.PowerOff:
		return atRest(a)
	case providers.PowerSaved:
		if known[capacity.Disk] > 0 {
			return atRest(a) // with its memory
		}
		return saved(a)
	default:
		return a
	}
}

// need is what the machine takes while it runs as its spec says.
func (r *Reconciler) need(v *view) capacity.Amount {
	a := Need(v.sbx, v.img, r.o.Defaults)
	if v.parentDisk > a[capacity.Disk] {
		a[capacity.Disk] = v.parentDisk
	}
	return a
}

// wants is what the machine is to have for the step that is next.
func (r *Reconciler) wants(v *view, has capacity.Amount) (want capacity.Amount, urgent bool) {
	need := r.need(v)
	switch v.last.action {
	case actWait:
		if startedLater(v.last) {
			return has.Max(r.o.Capacity.Held(v.sbx.UID)), false
		}
	case actEnsure:
		switch {
		case v.machine != nil && v.machine.Power != providers.PowerOff:
		case willRun(v.desired, observedOf(v), v.now):
			return has.Max(need), false
		default:
			return has.Max(atRest(need)), false
		}
	case actStart, actRestart:
		if v.machine.Power == providers.PowerSaved { // with the memory of then
			need[capacity.Memory] = max(need[capacity.Memory], has[capacity.Disk]-need[capacity.Disk])
		}
		return has.Max(need), false
	case actSuspend:
		return has.Plus(capacity.Amount{capacity.Disk: has[capacity.Memory]}), true
	case actRevert:
		if v.target.snap != nil && v.target.snap.Spec.Memory {
			return has.Max(saved(need)), true
		}
	}
	return has, false
}

// willRun tells whether a machine that is off, or not there yet, is to be started once
// it is as the spec says.
func willRun(d desired, o observed, now time.Time) bool {
	m := providers.Machine{Power: providers.PowerOff, OffReason: providers.OffNeverStarted}
	if o.Machine != nil {
		m.OffReason = o.Machine.OffReason
	} else {
		o.StartedAt = time.Time{}
	}
	m.Hashes = d.Hashes
	o.Machine = &m
	s := next(d, o, now)
	return s.action == actStart || s.action == actRestart || startedLater(s)
}

// startedLater tells whether a machine that is off waits for a pause between two starts
// only, and keeps what it is about to need again.
func startedLater(s step) bool { return s.why == whyCrashLoop || s.why == whyRepaired }
