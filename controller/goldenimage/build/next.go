package build

import (
	"errors"
	"fmt"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// Action is what is to be done next.
type Action string

// The actions.
const (
	// None: there is no build, or nothing to do for it.
	None Action = "None"
	// Wait: look again when woken, or after Step.After.
	Wait Action = "Wait"
	// Begin: write down a new build, which has no machine yet.
	Begin Action = "Begin"
	// Make: make the machine and start it.
	Make Action = "Make"
	// Boot: start the machine again, without its installer.
	Boot Action = "Boot"
	// Provision: start the job of the steps.
	Provision Action = "Provision"
	// ShutDown: all steps are done; write that down.
	ShutDown Action = "ShutDown"
	// Stop: ask the guest to shut down.
	Stop Action = "Stop"
	// Seal: the guest has shut down; write that down.
	Seal Action = "Seal"
	// Import: copy the machine's disk and seal the copy.
	Import Action = "Import"
	// Discard: end the jobs and remove the machine.
	Discard Action = "Discard"
	// Restart: remove the machine and begin again, because of Step.Err.
	Restart Action = "Restart"
	// Retry is Restart that counts as one more attempt.
	Retry Action = "Retry"
	// Fail: write down that the build failed, because of Step.Err.
	Fail Action = "Fail"
	// Close: write down that the build is over.
	Close Action = "Close"
)

// Limits of a build, besides its timeout.
type Limits struct {
	// Guest is how long a guest may take until its agent answers.
	Guest time.Duration
	// ShutDown is how long it may take to shut down.
	ShutDown time.Duration
	// StopAgain is when a guest that still runs is asked to shut down again.
	StopAgain time.Duration
	// Attempts is how many machines may be lost in the middle.
	Attempts int32
	// Backoff is the pause before the second attempt; it grows with each.
	Backoff time.Duration
}

// DefaultLimits suit emulated guests on a busy host.
func DefaultLimits() Limits {
	return Limits{
		Guest: 15 * time.Minute, ShutDown: 5 * time.Minute, StopAgain: 20 * time.Second,
		Attempts: 3, Backoff: 5 * time.Second,
	}
}

// JobState says how the job of the steps stands.
type JobState string

// The states of the job.
const (
	// JobNone: this process has none.
	JobNone JobState = ""
	// JobRunning: it has not ended.
	JobRunning JobState = "Running"
	// JobDone: it has ended; Observed.JobErr is its result.
	JobDone JobState = "Done"
)

// Observed is what the decision looks at.
type Observed struct {
	Plan   Plan
	Limits Limits
	// Needed: the plan's revision is wanted, not sealed yet, and its base is
	// there.
	Needed bool
	// Generation of the spec, and the value of its AnnotationRebuild.
	Generation int64
	Request    string
	// Record is the build that the status remembers; nil when there was none.
	Record *v1.ImageBuild
	// Machine is nil when there is none. It is looked at only where IsActive says
	// so.
	Machine *providers.Machine
	// Installed: the machine is already one without an installer.
	Installed bool
	Job       JobState
	JobErr    error
}

// Step is a decision.
type Step struct {
	Action Action
	// After is when to look again without being woken; 0: only when woken.
	After time.Duration
	// Err is why, for Restart, Retry and Fail.
	Err error
}

// IsActive tells whether the build that is remembered is the wanted one and
// under way, so that its machine counts.
func (o Observed) IsActive() bool {
	return o.isCurrent() && o.Record.Phase != v1.BuildDone && o.Record.Phase != v1.BuildFailed
}

func (o Observed) isCurrent() bool {
	r := o.Record
	return r != nil && o.Needed && r.Revision == o.Plan.Revision && r.Generation == o.Generation && r.Request == o.Request
}

// Next decides. It is total: every combination of arguments has a step.
func Next(o Observed, now time.Time) Step {
	r := o.Record
	over := r == nil || r.Phase == v1.BuildDone || r.Phase == v1.BuildFailed
	switch {
	case r != nil && r.MachineID != "" && (over || !o.isCurrent()):
		return Step{Action: Discard}
	case !o.Needed && over:
		return Step{Action: None}
	case !o.Needed:
		return Step{Action: Close}
	case !o.isCurrent(), r.Phase == v1.BuildDone: // sealed once, and gone since
		return Step{Action: Begin}
	case r.Phase == v1.BuildFailed:
		return Step{Action: None}
	}
	left, counts := o.timeLeft(now)
	if counts && left <= 0 {
		return Step{Action: Fail, Err: timedOut(o)}
	}
	s := o.active(now)
	switch {
	case s.Action == Retry && r.Attempt >= o.Limits.Attempts:
		return Step{Action: Fail, Err: exhausted(o, s.Err)}
	case s.Action == Wait && counts && (s.After == 0 || s.After > left):
		s.After = left
	}
	return s
}

// timeLeft until the build's time is up. Copying the disk is the host's time.
func (o Observed) timeLeft(now time.Time) (left time.Duration, counts bool) {
	if o.Record.StartedAt == nil || o.Record.Phase == v1.BuildSealing || o.Record.Phase == v1.BuildPreparing {
		return 0, false
	}
	return o.Record.StartedAt.Add(o.Plan.Timeout).Sub(now), true
}

// active decides about a build that is under way.
func (o Observed) active(now time.Time) Step {
	r := o.Record
	switch {
	case r.Phase == v1.BuildPreparing:
		if pause := r.Since.Add(pauseBefore(r.Attempt, o.Limits.Backoff)).Sub(now); pause > 0 {
			return Step{Action: Wait, After: pause}
		}
		return Step{Action: Make}
	case o.Machine == nil:
		return Step{Action: Retry, Err: lost("the machine is gone")}
	}
	switch r.Phase {
	case v1.BuildInstalling:
		return o.installing()
	case v1.BuildBooting:
		return o.booting(now)
	case v1.BuildProvisioning:
		return o.provisioning()
	case v1.BuildShuttingDown:
		return o.shuttingDown(now)
	case v1.BuildSealing:
		if o.Machine.Power != providers.PowerOff {
			return Step{Action: Retry, Err: lost("somebody started the machine while its disk was to be sealed")}
		}
		return Step{Action: Import}
	default: // a phase of a later version
		return Step{Action: Restart, Err: lost("phase %q is not known", r.Phase)}
	}
}

func (o Observed) installing() Step {
	switch m := o.Machine; {
	case o.Installed && o.Plan.Provision: // cut off in the middle of Boot
		return Step{Action: Boot}
	case o.Installed && m.Power == providers.PowerOff: // and of Seal
		return Step{Action: Seal}
	case m.Power == providers.PowerRunning, m.Power == providers.PowerStopping:
		return Step{Action: Wait}
	case !ShutDownByGuest(m):
		return Step{Action: Retry, Err: lost("the machine ended in the middle of the installation (%s)", ended(m))}
	case o.Plan.Provision:
		return Step{Action: Boot}
	default:
		return Step{Action: Seal}
	}
}

func (o Observed) booting(now time.Time) Step {
	switch m := o.Machine; {
	case m.Power == providers.PowerStopping:
		return Step{Action: Wait}
	case m.Power != providers.PowerRunning:
		return Step{Action: Retry, Err: lost("the machine ended before its guest was up (%s)", ended(m))}
	case !o.Plan.Agent, m.Agent == providers.AgentConnected:
		return Step{Action: Provision}
	}
	left := o.Record.Since.Add(o.Limits.Guest).Sub(now)
	if left > 0 {
		return Step{Action: Wait, After: left}
	}
	return Step{Action: Fail, Err: &Failure{
		Reason:  v1.ReasonBuildFailed,
		Message: fmt.Sprintf("the guest agent did not answer within %v of the start: the image has none, or does not boot: install one, or set guest.agent to None and build.network to nat to build it by ssh", o.Limits.Guest),
	}}
}

func (o Observed) provisioning() Step {
	switch {
	case o.Job == JobNone:
		return Step{Action: Restart, Err: lost("the daemon was restarted in the middle of the steps")}
	case o.Job == JobRunning:
		return Step{Action: Wait}
	case o.JobErr == nil:
		return Step{Action: ShutDown}
	}
	if f := (*Failure)(nil); errors.As(o.JobErr, &f) || providers.IsTerminal(o.JobErr) {
		return Step{Action: Fail, Err: o.JobErr}
	}
	return Step{Action: Retry, Err: o.JobErr}
}

func (o Observed) shuttingDown(now time.Time) Step {
	since := now.Sub(o.Record.Since.Time)
	switch m := o.Machine; {
	case ShutDownByGuest(m):
		return Step{Action: Seal}
	case m.Power != providers.PowerRunning && m.Power != providers.PowerStopping:
		return Step{Action: Retry, Err: lost("the machine did not shut down in order (%s)", ended(m))}
	case since >= o.Limits.ShutDown:
		return Step{Action: Retry, Err: lost("the guest did not shut down within %v of being asked to", o.Limits.ShutDown)}
	case m.Power == providers.PowerStopping:
		return Step{Action: Wait, After: o.Limits.ShutDown - since}
	default:
		return Step{Action: Stop, After: min(o.Limits.StopAgain, o.Limits.ShutDown-since)}
	}
}

// pauseBefore an attempt: nothing before the first one.
func pauseBefore(attempt int32, backoff time.Duration) time.Duration {
	if attempt <= 1 {
		return 0
	}
	const most = 5 // keeps the shift sane
	return backoff << (2 * min(attempt-2, most))
}

// ShutDownByGuest tells whether a machine is off because its guest shut down.
func ShutDownByGuest(m *providers.Machine) bool {
	return m.Power == providers.PowerOff && m.OffReason == providers.OffShutdown
}

// ended says how a machine came to be as it is.
func ended(m *providers.Machine) string {
	if m.Power == providers.PowerOff {
		return string(m.OffReason)
	}
	return string(m.Power)
}

func lost(format string, args ...any) error {
	return providers.Errorf(providers.ErrUnavailable, "build", format, args...)
}

func timedOut(o Observed) error {
	doing := "phase " + string(o.Record.Phase)
	if o.Record.Step != "" {
		doing = fmt.Sprintf("step %q", o.Record.Step)
	}
	return &Failure{
		Reason: v1.ReasonBuildTimedOut, Step: o.Record.Step,
		Message: fmt.Sprintf("it did not end within %v (spec.build.timeout) of its machine's start, in %s", o.Plan.Timeout, doing),
	}
}

func exhausted(o Observed, err error) error {
	return &Failure{
		Reason: v1.ReasonBuildFailed, Step: o.Record.Step,
		Message: fmt.Sprintf("its machine was lost in %d attempts, at last so: %v", o.Record.Attempt, err),
	}
}
