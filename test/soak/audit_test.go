package soak

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// bound is how long anything may take once the weather is fine: the longest pause of
// the backoff with its jitter, the longest pause between restarts of a machine, a resync
// for what nobody was woken for, and what the garbage collector waits before it takes
// away what nobody needs. Twice, because things wait for each other.
const bound = 2 * (90*time.Second + 5*time.Minute + resync + gcGrace + 2*gcInterval)

// worstMinute is how many calls about one thing may fail in a minute. The backoff
// lets 8 tries begin within the first minute (0, ¼, ¾, 1¾, 3¾ … seconds after the
// first, with the shortest delays that its jitter gives); of each, the reconciler's
// own call may fail and one of a job or of another reconciler for the same thing; and
// a success in between, a change of the spec and an event of the host begin anew. So it
// is two dozens or three, where a try at each turn of a loop would be thousands.
const worstMinute = 40

// audit is a look at everything, after the weather was fine for bound.
type audit struct {
	u         *users
	sandboxes map[types.UID]*v1.Sandbox
	byName    map[string]*v1.Sandbox
	snapshots map[string]*v1.SandboxSnapshot
	images    map[string]*v1.GoldenImage
	forks     map[string]int // by snapshot
	wrong     []string
}

func (a *audit) fault(format string, args ...any) {
	a.wrong = append(a.wrong, fmt.Sprintf(format, args...))
}

// auditOf returns what is not as it should be.
func auditOf(u *users) []string {
	a := &audit{
		u: u, sandboxes: map[types.UID]*v1.Sandbox{}, byName: map[string]*v1.Sandbox{},
		snapshots: map[string]*v1.SandboxSnapshot{}, images: map[string]*v1.GoldenImage{}, forks: map[string]int{},
	}
	a.read()
	for _, sbx := range a.sandboxes {
		if why := a.unsettled(sbx); why != "" {
			a.fault("sandbox %s is stuck: %s\n  spec %+v\n  status %+v", sbx.Name, why, sbx.Spec, sbx.Status)
		}
	}
	for _, snap := range a.snapshots {
		if why := a.unsettledSnapshot(snap); why != "" {
			a.fault("snapshot %s is stuck: %s\n  spec %+v\n  status %+v", snap.Name, why, snap.Spec, snap.Status)
		}
	}
	for _, img := range a.images {
		if why := a.unsettledImage(img); why != "" {
			a.fault("image %s is stuck: %s\n  status %+v", img.Name, why, img.Status)
		}
	}
	a.host()
	a.bounds()
	return a.wrong
}

func (a *audit) read() {
	ctx := context.Background()
	var sandboxes v1.SandboxList
	var snapshots v1.SandboxSnapshotList
	var images v1.GoldenImageList
	for _, list := range []client.ObjectList{&sandboxes, &snapshots, &images} {
		must(a.u.t, a.u.client.List(ctx, list))
	}
	for i := range sandboxes.Items {
		sbx := &sandboxes.Items[i]
		a.sandboxes[sbx.UID], a.byName[sbx.Name] = sbx, sbx
		if sbx.Spec.FromSnapshot != "" {
			a.forks[sbx.Spec.FromSnapshot]++
		}
	}
	for i := range snapshots.Items {
		a.snapshots[snapshots.Items[i].Name] = &snapshots.Items[i]
	}
	for i := range images.Items {
		a.images[images.Items[i].Name] = &images.Items[i]
	}
}

func status(list []metav1.Condition, t string) metav1.Condition {
	if c := meta.FindStatusCondition(list, t); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// unsettled says why a sandbox is neither what its spec says nor says rightly why it
// cannot be.
func (a *audit) unsettled(sbx *v1.Sandbox) string {
	ready := status(sbx.Status.Conditions, v1.ConditionReady)
	if !sbx.DeletionTimestamp.IsZero() {
		if ready.Reason == v1.ReasonInUse && a.hasForks(sbx) {
			return ""
		}
		return "it is not deleted"
	}
	if sbx.Status.ObservedGeneration != sbx.Generation {
		return "its spec was not looked at"
	}
	if at := sbx.Status.ExpiresAt; at != nil && sbx.Spec.Lifecycle.OnExpiry != v1.ExpiryStop && a.u.wall.Since(at.Time) > bound {
		return "its time was up at " + at.String()
	}
	if a.agrees(sbx, ready) {
		return ""
	}
	return fmt.Sprintf("%s %s: %s", ready.Status, ready.Reason, ready.Message)
}

// agrees tells whether what a sandbox says of itself is the case.
func (a *audit) agrees(sbx *v1.Sandbox, ready metav1.Condition) bool {
	want := sbx.Spec.PowerState
	if at := sbx.Status.ExpiresAt; at != nil && !a.u.wall.Now().Before(at.Time) {
		want = v1.PowerStopped
	}
	img := a.images[sbx.Spec.Image]
	switch reason := ready.Reason; {
	case ready.Status == metav1.ConditionTrue:
		return want == v1.PowerRunning
	case reason == v1.ReasonStopped, reason == v1.ReasonExpired:
		return want != v1.PowerRunning // suspended while off: stays off
	case reason == v1.ReasonSuspended:
		return want == v1.PowerSuspended
	case reason == v1.ReasonExited:
		return sbx.Spec.RestartPolicy != v1.RestartAlways
	case reason == v1.ReasonCrashed:
		return sbx.Spec.RestartPolicy == v1.RestartNever || sbx.Status.Restarts > 0
	case reason == v1.ReasonImageNotFound:
		return img == nil
	case reason == v1.ReasonImageNotReady:
		return img != nil && status(img.Status.Conditions, v1.ConditionReady).Status != metav1.ConditionTrue
	case reason == v1.ReasonSnapshotNotFound, reason == v1.ReasonSnapshotNotReady:
		return !a.usable(sbx.Spec.FromSnapshot) || sbx.Spec.RevertTo != nil && !a.usable(sbx.Spec.RevertTo.Snapshot)
	case reason == v1.ReasonUnsupported: // mounted folders keep memory from being saved
		return want == v1.PowerSuspended && len(sbx.Spec.SharedFolders) > 0
	case reason == v1.ReasonInvalid: // a disk that is smaller than its image, or a snapshot of an earlier one
		return sbx.Spec.DiskSize != nil || sbx.Spec.FromSnapshot != "" || sbx.Spec.RevertTo != nil
	}
	return false
}

func (a *audit) usable(snapshot string) bool {
	if snapshot == "" || snapshot == v1.SnapshotGolden {
		return true
	}
	snap := a.snapshots[snapshot]
	return snap != nil && snap.DeletionTimestamp.IsZero() && meta.IsStatusConditionTrue(snap.Status.Conditions, v1.ConditionReady)
}

func (a *audit) hasForks(sbx *v1.Sandbox) bool {
	for _, snap := range a.snapshots {
		if snap.Spec.Sandbox == sbx.Name && a.forks[snap.Name] > 0 {
			return true
		}
	}
	return false
}

func (a *audit) unsettledSnapshot(snap *v1.SandboxSnapshot) string {
	ready := status(snap.Status.Conditions, v1.ConditionReady)
	sbx := a.byName[snap.Spec.Sandbox]
	switch reason := ready.Reason; {
	case !snap.DeletionTimestamp.IsZero():
		if a.forks[snap.Name] > 0 || sbx != nil && !sbx.DeletionTimestamp.IsZero() {
			return ""
		}
		return "it is not deleted: " + ready.Message
	case ready.Status == metav1.ConditionTrue, reason == v1.ReasonLost:
		return ""
	case reason == v1.ReasonSandboxNotFound && sbx == nil:
		return ""
	case reason == v1.ReasonSandboxNotReady && (sbx == nil || snap.Spec.Memory || !meta.IsStatusConditionTrue(sbx.Status.Conditions, v1.ConditionReady)):
		return ""
	}
	return fmt.Sprintf("%s %s: %s", ready.Status, ready.Reason, ready.Message)
}

func (a *audit) unsettledImage(img *v1.GoldenImage) string {
	ready := status(img.Status.Conditions, v1.ConditionReady)
	switch reason := ready.Reason; {
	case !img.DeletionTimestamp.IsZero():
		for _, sbx := range a.sandboxes {
			if sbx.Spec.Image == img.Name {
				return ""
			}
		}
		return "it is not deleted: " + ready.Message
	case ready.Status == metav1.ConditionTrue:
		return ""
	case img.Spec.Source.Sandbox != nil: // which may have gone, or run
		return ""
	default:
		return fmt.Sprintf("%s %s: %s", ready.Status, reason, ready.Message)
	}
}

// host compares what there is with what there should be.
func (a *audit) host() {
	list, err := a.u.provider().ListResources(context.Background())
	must(a.u.t, err)
	machines := map[types.UID]bool{}
	for _, r := range list {
		if r.Ownership != providers.Ours {
			continue
		}
		if r.Kind == providers.ResourceMachine {
			machines[types.UID(r.ID)] = true
		}
		if !slices.ContainsFunc(r.Owners, a.owns) {
			a.fault("orphan: %s %s (%s) has no object", r.Kind, r.ID, r.Description)
		}
	}
	for _, sbx := range a.sandboxes {
		provisioned := meta.IsStatusConditionTrue(sbx.Status.Conditions, v1.ConditionProvisioned)
		if provisioned != machines[sbx.UID] && sbx.DeletionTimestamp.IsZero() {
			a.fault("sandbox %s says Provisioned %v, and its machine exists: %v", sbx.Name, provisioned, machines[sbx.UID])
		}
	}
}

// owns tells whether an object with that UID exists.
func (a *audit) owns(id types.UID) bool {
	if a.sandboxes[id] != nil {
		return true
	}
	for _, img := range a.images {
		if img.UID == id {
			return true
		}
	}
	for _, snap := range a.snapshots {
		if snap.UID == id {
			return true
		}
	}
	return false
}

// bounds looks at what must not grow.
func (a *audit) bounds() {
	w := a.u.weather
	w.mu.Lock()
	worst, of, why := w.worst, w.worstOf, w.worstErr
	w.mu.Unlock()
	if worst > worstMinute {
		a.fault("retries spin: %d calls of %s about %s failed in one minute, where the backoff allows %d: %v", worst, of.verb, of.id, worstMinute, why)
	}
	var events eventsv1.EventList
	must(a.u.t, a.u.client.List(context.Background(), &events))
	// An event lives for an hour, and a sandbox's life has about a dozen.
	if limit := 60 * (a.u.crowd + 20); len(events.Items) > limit {
		a.fault("there are %d events, where %d should be enough", len(events.Items), limit)
	}
}

// storeSize in bytes.
func (h *host) storeSize() int64 {
	info, err := os.Stat(h.store())
	if err != nil {
		return 0
	}
	return info.Size()
}

// report fails a test for what an audit found.
func report(u *users, when string, wrong []string) {
	const most = 8
	if len(wrong) > most {
		wrong = append(wrong[:most:most], fmt.Sprintf("and %d more", len(wrong)-most))
	}
	if len(wrong) > 0 {
		u.t.Errorf("%s:\n%s", when, strings.Join(wrong, "\n"))
	}
}
