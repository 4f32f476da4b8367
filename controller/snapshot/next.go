package snapshot

import (
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// action is what a reconciliation does.
type action string

const (
	// actWait: the machine cannot be kept yet.
	actWait action = "Wait"
	// actTake: have the state taken.
	actTake action = "Take"
	// actSettle: the provider has it.
	actSettle action = "Settle"
	// actLose: the provider had it, and has it no more.
	actLose action = "Lose"
	// actCollect: delete the object, because its machine's Sandbox is gone.
	actCollect action = "Collect"
	// actHold: to be deleted, and forks of it exist.
	actHold action = "Hold"
	// actFollow: to be deleted, and goes along with its machine.
	actFollow action = "Follow"
	// actRemove: to be deleted, by itself.
	actRemove action = "Remove"
)

// owner is what there is of the sandbox.
type owner string

const (
	// ownerAbsent: no sandbox of the name, and the snapshot is bound to no machine.
	ownerAbsent owner = "Absent"
	// ownerUnmade: the sandbox has no machine yet.
	ownerUnmade owner = "Unmade"
	// ownerPresent: the sandbox and its machine are there.
	ownerPresent owner = "Present"
	// ownerDeleting: the sandbox is being deleted.
	ownerDeleting owner = "Deleting"
	// ownerGone: the snapshot is bound to the machine of a sandbox that is gone.
	ownerGone owner = "Gone"
)

// reason words of a wait.
const (
	whyAbsent   = "absent"   // no such sandbox
	whyUnmade   = "unmade"   // no machine
	whyDeleting = "deleting" // the sandbox goes
	whyStopping = "stopping" // the guest is shutting down
	whyStarting = "starting" // the guest is on its way up
	whyOff      = "off"      // off, and memory is asked for
)

// step is a decision, and why where it matters.
type step struct {
	action action
	why    string
}

// observed is what the decision looks at.
type observed struct {
	// Deleting: the snapshot has a deletion timestamp.
	Deleting bool
	// Owner of it.
	Owner owner
	// Taken: it was seen at the provider once.
	Taken bool
	// Held: the provider has it.
	Held bool
	// Forks is the number of machines that began from it.
	Forks int
	// Memory is asked for.
	Memory bool
	// Machine of the sandbox; empty when there is none.
	Machine providers.Power
	// Rising: the machine is to run, and its guest is not up yet.
	Rising bool
}

// next decides. It is total: every combination of arguments has a step.
func next(o observed) step {
	switch {
	case o.Deleting && o.Forks > 0:
		return step{action: actHold}
	case o.Deleting && o.Owner == ownerDeleting:
		return step{action: actFollow}
	case o.Deleting:
		return step{action: actRemove}
	case o.Owner == ownerGone:
		return step{action: actCollect}
	case o.Held:
		return step{action: actSettle}
	case o.Taken:
		return step{action: actLose}
	}
	switch o.Owner {
	case ownerAbsent:
		return step{actWait, whyAbsent}
	case ownerUnmade:
		return step{actWait, whyUnmade}
	case ownerDeleting:
		return step{actWait, whyDeleting}
	default:
		return nextTake(o)
	}
}

// nextTake takes the state of a machine that stands or runs. One that is about to
// be up is waited for: sandbox and snapshot are often applied together, and nobody
// wants the state of a guest that is half booted.
func nextTake(o observed) step {
	switch {
	case o.Machine == "":
		return step{actWait, whyUnmade}
	case o.Machine == providers.PowerStopping:
		return step{actWait, whyStopping}
	case o.Rising:
		return step{actWait, whyStarting}
	case o.Machine == providers.PowerOff && o.Memory:
		return step{actWait, whyOff}
	default:
		return step{action: actTake}
	}
}

// rising tells whether a sandbox's machine is to run and its guest is not up, as far
// as its status says, which may be behind.
func rising(sbx *v1.Sandbox, power providers.Power) bool {
	find := func(t string) metav1.Condition {
		if c := meta.FindStatusCondition(sbx.Status.Conditions, t); c != nil {
			return *c
		}
		return metav1.Condition{}
	}
	on := find(v1.ConditionPoweredOn)
	switch power {
	case providers.PowerRunning:
		return on.Status != metav1.ConditionTrue || find(v1.ConditionGuestReady).Status == metav1.ConditionFalse
	case providers.PowerOff:
		return on.Reason != v1.ReasonStopped && on.Reason != v1.ReasonExited && on.Reason != v1.ReasonCrashed
	case providers.PowerPaused:
		return on.Reason != v1.ReasonPaused
	default:
		return false
	}
}
