package build_test

import (
	"errors"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/goldenimage/build"
	"sandboxd.dev/sandboxd/providers"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(ago time.Duration) metav1.Time { return metav1.NewTime(now.Add(-ago)) }

// observe is a build of revision r2 in a phase that began some time ago.
func observe(phase v1.BuildPhase, since time.Duration, change ...func(*build.Observed)) build.Observed {
	started := at(since)
	o := build.Observed{
		Plan:   build.Plan{Revision: "r2", Base: "r1", Machine: true, Provision: true, Agent: true, Timeout: time.Hour},
		Limits: build.Limits{Guest: 10 * time.Minute, ShutDown: 5 * time.Minute, StopAgain: 20 * time.Second, Attempts: 3, Backoff: 5 * time.Second},
		Needed: true, Generation: 4,
		Record: &v1.ImageBuild{Revision: "r2", Generation: 4, Phase: phase, Since: at(since), StartedAt: &started, Attempt: 1, MachineID: "id"},
	}
	if phase == v1.BuildPreparing {
		o.Record.StartedAt = nil
	}
	for _, c := range change {
		c(&o)
	}
	return o
}

func machine(p providers.Power, more ...any) func(*build.Observed) {
	m := &providers.Machine{Power: p}
	for _, x := range more {
		switch x := x.(type) {
		case providers.OffReason:
			m.OffReason = x
		case providers.AgentState:
			m.Agent = x
		}
	}
	return func(o *build.Observed) { o.Machine = m }
}

func job(s build.JobState, err error) func(*build.Observed) {
	return func(o *build.Observed) { o.Job, o.JobErr = s, err }
}

func with(change func(*build.Observed)) func(*build.Observed) { return change }

func TestNext(t *testing.T) {
	running := machine(providers.PowerRunning)
	off := machine(providers.PowerOff, providers.OffShutdown)
	crashed := machine(providers.PowerOff, providers.OffCrashed)
	unneeded := with(func(o *build.Observed) { o.Needed = false })
	noMachine := with(func(o *build.Observed) { o.Record.MachineID = "" })
	third := with(func(o *build.Observed) { o.Record.Attempt = 3 })
	installs := with(func(o *build.Observed) { o.Plan.Install, o.Plan.Base = true, "" })
	installsOnly := with(func(o *build.Observed) { o.Plan.Install, o.Plan.Base, o.Plan.Provision = true, "", false })
	unavailable := providers.Errorf(providers.ErrUnavailable, "x", "gone")
	tests := []struct {
		name  string
		o     build.Observed
		want  build.Action
		after time.Duration
	}{
		{"never built, not needed", observe("", 0, unneeded, with(func(o *build.Observed) { o.Record = nil })), build.None, 0},
		{"never built", observe("", 0, with(func(o *build.Observed) { o.Record = nil })), build.Begin, 0},
		{"another revision was built", observe(v1.BuildDone, 0, noMachine, with(func(o *build.Observed) { o.Record.Revision = "r0" })), build.Begin, 0},
		{"another revision is being built", observe(v1.BuildProvisioning, 0, running, with(func(o *build.Observed) { o.Record.Revision = "r0" })), build.Discard, 0},
		{"the spec changed meanwhile", observe(v1.BuildProvisioning, 0, running, with(func(o *build.Observed) { o.Generation = 5 })), build.Discard, 0},
		{"sealed, its machine still there", observe(v1.BuildSealing, 0, off, unneeded), build.Discard, 0},
		{"sealed, its machine gone", observe(v1.BuildSealing, 0, unneeded, noMachine), build.Close, 0},
		{"over and sealed", observe(v1.BuildDone, 0, unneeded, noMachine), build.None, 0},
		{"sealed once, and gone since", observe(v1.BuildDone, 0, noMachine), build.Begin, 0},
		{"failed, its machine still there", observe(v1.BuildFailed, 0, running), build.Discard, 0},
		{"failed", observe(v1.BuildFailed, 0, noMachine), build.None, 0},
		{"failed, not needed any more", observe(v1.BuildFailed, 0, noMachine, unneeded), build.None, 0},
		{"failed, the spec has changed", observe(v1.BuildFailed, 0, noMachine, with(func(o *build.Observed) { o.Generation = 5 })), build.Begin, 0},
		{"failed, asked for again", observe(v1.BuildFailed, 0, noMachine, with(func(o *build.Observed) { o.Request = "now" })), build.Begin, 0},

		{"no machine yet", observe(v1.BuildPreparing, 0), build.Make, 0},
		{"made, perhaps started", observe(v1.BuildPreparing, 0, running), build.Make, 0},
		{"second attempt, too soon", observe(v1.BuildPreparing, time.Second, with(func(o *build.Observed) { o.Record.Attempt = 2 })), build.Wait, 4 * time.Second},
		{"second attempt", observe(v1.BuildPreparing, 6*time.Second, with(func(o *build.Observed) { o.Record.Attempt = 2 })), build.Make, 0},
		{"third attempt, too soon", observe(v1.BuildPreparing, 6*time.Second, third), build.Wait, 14 * time.Second},

		{"installing", observe(v1.BuildInstalling, time.Minute, running, installs), build.Wait, 59 * time.Minute},
		{"installed, steps follow", observe(v1.BuildInstalling, 0, off, installs), build.Boot, 0},
		{"installed, no steps follow", observe(v1.BuildInstalling, 0, off, installsOnly), build.Seal, 0},
		{"the installer crashed", observe(v1.BuildInstalling, 0, crashed, installs), build.Retry, 0},
		{"the installer takes too long", observe(v1.BuildInstalling, time.Hour, running, installs), build.Fail, 0},

		{"booting", observe(v1.BuildBooting, time.Minute, running), build.Wait, 9 * time.Minute},
		{"booting for too long", observe(v1.BuildBooting, 10*time.Minute, running), build.Fail, 0},
		{"up", observe(v1.BuildBooting, time.Minute, machine(providers.PowerRunning, providers.AgentConnected)), build.Provision, 0},
		{"without an agent", observe(v1.BuildBooting, 0, running, with(func(o *build.Observed) { o.Plan.Agent = false })), build.Provision, 0},
		{"shuts down while booting", observe(v1.BuildBooting, time.Minute, machine(providers.PowerStopping)), build.Wait, 59 * time.Minute},
		{"off while booting", observe(v1.BuildBooting, time.Minute, off), build.Retry, 0},
		{"off while booting, for the last time", observe(v1.BuildBooting, time.Minute, off, third), build.Fail, 0},
		{"paused while booting", observe(v1.BuildBooting, time.Minute, machine(providers.PowerPaused)), build.Retry, 0},
		{"gone while booting", observe(v1.BuildBooting, time.Minute), build.Retry, 0},

		{"in the steps", observe(v1.BuildProvisioning, time.Minute, running, job(build.JobRunning, nil)), build.Wait, 59 * time.Minute},
		{"in the steps, of another process", observe(v1.BuildProvisioning, time.Minute, running), build.Restart, 0},
		{"in the steps, of another process, last attempt", observe(v1.BuildProvisioning, time.Minute, running, third), build.Restart, 0},
		{"all steps done", observe(v1.BuildProvisioning, time.Minute, running, job(build.JobDone, nil)), build.ShutDown, 0},
		{"a step failed", observe(v1.BuildProvisioning, time.Minute, running, job(build.JobDone, &build.Failure{Step: "x"})), build.Fail, 0},
		{"not supported", observe(v1.BuildProvisioning, time.Minute, running, job(build.JobDone, providers.Errorf(providers.ErrUnsupported, "x", "no"))), build.Fail, 0},
		{"the guest is lost", observe(v1.BuildProvisioning, time.Minute, running, job(build.JobDone, unavailable)), build.Retry, 0},
		{"the guest is lost for the last time", observe(v1.BuildProvisioning, time.Minute, running, job(build.JobDone, unavailable), third), build.Fail, 0},
		{"a step was failed by a machine that is gone", observe(v1.BuildProvisioning, time.Minute, job(build.JobDone, &build.Failure{Step: "x"})), build.Retry, 0},
		{"the steps take too long", observe(v1.BuildProvisioning, time.Hour, running, job(build.JobRunning, nil)), build.Fail, 0},

		{"to shut down", observe(v1.BuildShuttingDown, 0, running), build.Stop, 20 * time.Second},
		{"shutting down", observe(v1.BuildShuttingDown, time.Minute, machine(providers.PowerStopping)), build.Wait, 4 * time.Minute},
		{"does not shut down", observe(v1.BuildShuttingDown, 5*time.Minute, running), build.Retry, 0},
		{"off", observe(v1.BuildShuttingDown, time.Minute, off), build.Seal, 0},
		{"off, seen late", observe(v1.BuildShuttingDown, 50*time.Minute, off), build.Seal, 0},
		{"forced off", observe(v1.BuildShuttingDown, time.Minute, machine(providers.PowerOff, providers.OffDestroyed)), build.Retry, 0},
		{"off, nobody knows how", observe(v1.BuildShuttingDown, time.Minute, machine(providers.PowerOff, providers.OffUnknown)), build.Retry, 0},
		{"gone while shutting down", observe(v1.BuildShuttingDown, time.Minute), build.Retry, 0},

		{"sealing", observe(v1.BuildSealing, 0, off), build.Import, 0},
		{"sealing after a reboot of the host", observe(v1.BuildSealing, 0, machine(providers.PowerOff, providers.OffUnknown)), build.Import, 0},
		{"sealing takes as long as it takes", observe(v1.BuildSealing, 9*time.Hour, off), build.Import, 0},
		{"started while sealing", observe(v1.BuildSealing, 0, running), build.Retry, 0},
		{"gone while sealing", observe(v1.BuildSealing, 0), build.Retry, 0},
		{"a phase of a later version", observe("Polishing", 0, running), build.Restart, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := build.Next(tt.o, now)
			if got.Action != tt.want || got.After != tt.after {
				t.Errorf("got %s after %v, want %s after %v", got.Action, got.After, tt.want, tt.after)
			}
			if (got.Err != nil) != (got.Action == build.Fail || got.Action == build.Retry || got.Action == build.Restart) {
				t.Errorf("%s for the reason %v", got.Action, got.Err)
			}
			if f := (*build.Failure)(nil); got.Action == build.Fail && !errors.As(got.Err, &f) && !providers.IsTerminal(got.Err) {
				t.Errorf("failed for %v, which another try might mend", got.Err)
			}
		})
	}
}

// TestNothingHalfIsSealed looks at every combination that the decision tells apart:
// a disk is only copied of a machine that is off, in the phase that follows on a
// shutdown that was seen.
func TestNothingHalfIsSealed(t *testing.T) {
	phases := []v1.BuildPhase{"", v1.BuildPreparing, v1.BuildInstalling, v1.BuildBooting, v1.BuildProvisioning, v1.BuildShuttingDown, v1.BuildSealing, v1.BuildDone, v1.BuildFailed, "Other"}
	powers := []providers.Power{"", providers.PowerOff, providers.PowerRunning, providers.PowerPaused, providers.PowerSaved, providers.PowerStopping}
	reasons := []providers.OffReason{providers.OffNeverStarted, providers.OffShutdown, providers.OffDestroyed, providers.OffCrashed, providers.OffUnknown}
	jobs := []func(*build.Observed){job(build.JobNone, nil), job(build.JobRunning, nil), job(build.JobDone, nil), job(build.JobDone, &build.Failure{}), job(build.JobDone, providers.ErrUnavailable)}
	for _, phase := range phases {
		for _, power := range powers {
			for _, reason := range reasons {
				for _, j := range jobs {
					for _, provision := range []bool{true, false} {
						o := observe(phase, time.Minute, j)
						o.Plan.Provision = provision
						if power != "" {
							machine(power, reason)(&o)
						}
						off := o.Machine != nil && power == providers.PowerOff
						switch got := build.Next(o, now).Action; {
						case got == build.Import && (phase != v1.BuildSealing || !off),
							got == build.Seal && (!off || reason != providers.OffShutdown || (phase != v1.BuildShuttingDown && (phase != v1.BuildInstalling || provision))),
							got == build.ShutDown && (phase != v1.BuildProvisioning || o.Job != build.JobDone || o.JobErr != nil):
							t.Errorf("%s in phase %s of a machine that is %s (%s), job %s (%v)", got, phase, power, reason, o.Job, o.JobErr)
						}
					}
				}
			}
		}
	}
}

func TestPlan(t *testing.T) {
	disk := v1.ImageSource{Disk: &v1.DiskSource{Path: "a.qcow2"}}
	steps := []v1.ProvisionStep{{Name: "a", Script: "true"}}
	plain := build.PlanOf(v1.GoldenImageSpec{Source: disk})
	if plain.Machine || plain.Base != "" || plain.Timeout != build.DefaultTimeout {
		t.Errorf("without steps: %+v", plain)
	}
	built := build.PlanOf(v1.GoldenImageSpec{Source: disk, Provision: steps, Build: v1.BuildMachine{Timeout: &metav1.Duration{Duration: time.Minute}}})
	if !built.Machine || !built.Provision || built.Install || built.Base != plain.Revision || built.Revision == plain.Revision || built.Timeout != time.Minute {
		t.Errorf("with steps: %+v", built)
	}
	installed := build.PlanOf(v1.GoldenImageSpec{Source: v1.ImageSource{ISO: &v1.ISOSource{Path: "a.iso"}}})
	if !installed.Machine || !installed.Install || installed.Provision || installed.Base != "" {
		t.Errorf("from an installer: %+v", installed)
	}
	if err := build.Check("image", v1.GoldenImageSpec{Provision: steps, Guest: v1.GuestAccess{Agent: v1.GuestAgentNone}}); !errors.Is(err, providers.ErrUnsupported) {
		t.Errorf("no agent and no network: %v", err)
	}
	for _, spec := range []v1.GoldenImageSpec{
		{Provision: steps},
		{Guest: v1.GuestAccess{Agent: v1.GuestAgentNone}},
		{Provision: steps, Guest: v1.GuestAccess{Agent: v1.GuestAgentNone}, Build: v1.BuildMachine{Network: v1.NetworkNAT}},
	} {
		if err := build.Check("image", spec); err != nil {
			t.Errorf("%+v: %v", spec, err)
		}
	}
}
