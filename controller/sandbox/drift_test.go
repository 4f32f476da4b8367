package sandbox

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

func driftOf(remedies ...providers.Remedy) []providers.Drift {
	var all []providers.Drift
	for _, r := range remedies {
		d := providers.Drift{Reason: v1.ReasonDefinitionChanged, Detail: "changed as " + string(r), Remedy: r}
		if r == providers.RemedyNone {
			d.Advice = "put it back"
		}
		all = append(all, d)
	}
	return all
}

// driftedMachines are in every state and drifted in every way, or not seen to be
// isolated.
func driftedMachines() (all []*providers.Machine) {
	for _, p := range []providers.Power{
		providers.PowerOff, providers.PowerRunning, providers.PowerPaused, providers.PowerSaved, providers.PowerStopping,
	} {
		m := providers.Machine{Power: p, Hashes: wanted}
		if p == providers.PowerOff {
			m.OffReason = providers.OffDestroyed
		}
		for _, remedies := range [][]providers.Remedy{
			{providers.RemedyEnsure},
			{providers.RemedyOff},
			{providers.RemedyPowerOff},
			{providers.RemedyNone},
			{providers.RemedyEnsure, providers.RemedyOff},
			{providers.RemedyNone, providers.RemedyPowerOff},
			{providers.RemedyEnsure, providers.RemedyNone},
		} {
			for _, seen := range []providers.NetworkObservation{isolated, {}} {
				m.Drift, m.Network = driftOf(remedies...), seen
				all = append(all, new(m))
			}
		}
		m.Drift, m.Network = nil, providers.NetworkObservation{}
		all = append(all, new(m))
	}
	return all
}

// TestNextDrifted names each row of the decisions about what others changed once.
func TestNextDrifted(t *testing.T) {
	running := desired{Power: v1.PowerRunning, Restart: v1.RestartAlways, Hashes: wanted, Known: true, ImageReady: true}
	stopped, suspended, never, unknown, resetting := running, running, running, running, running
	stopped.Power, suspended.Power, never.Restart, unknown.Known, resetting.Revert = v1.PowerStopped, v1.PowerSuspended, v1.RestartNever, false, revert
	is := func(p providers.Power, remedies ...providers.Remedy) *providers.Machine {
		return &providers.Machine{Power: p, Hashes: wanted, Network: isolated, Drift: driftOf(remedies...)}
	}
	unseen := &providers.Machine{Power: providers.PowerRunning, Hashes: wanted}
	ago := func(d time.Duration) time.Time { return t0.Add(-d) }
	const ensure, off, powerOff, none = providers.RemedyEnsure, providers.RemedyOff, providers.RemedyPowerOff, providers.RemedyNone
	const isOff, isRunning = providers.PowerOff, providers.PowerRunning

	for name, tt := range map[string]struct {
		d    desired
		o    observed
		want step
	}{
		"off, changed":                       {running, observed{Machine: is(isOff, off)}, step{action: actEnsure, why: whyDrift}},
		"off and to stay off, changed":       {stopped, observed{Machine: is(isOff, off)}, step{action: actEnsure, why: whyDrift}},
		"off, connected elsewhere":           {running, observed{Machine: is(isOff, powerOff)}, step{action: actEnsure, why: whyDrift}},
		"off by itself, changed, Never":      {never, observed{Machine: is(isOff, ensure), StartedAt: t0}, step{action: actEnsure, why: whyDrift}},
		"off, damaged":                       {running, observed{Machine: is(isOff, none)}, step{action: actWait, why: whyDamaged}},
		"off and to stay off, damaged":       {stopped, observed{Machine: is(isOff, none)}, step{action: actWait, why: whyDamaged}},
		"off, damaged and changed":           {running, observed{Machine: is(isOff, ensure, none)}, step{action: actWait, why: whyDamaged}},
		"off, damaged, to have a fresh disk": {resetting, observed{Machine: is(isOff, none)}, step{action: actReset}},
		"on, damaged, to have a fresh disk":  {resetting, observed{Machine: is(isRunning, none)}, step{action: actStopForce}},
		"off, changed, image gone":           {unknown, observed{Machine: is(isOff, off)}, step{action: actWait, why: whyNoSpec}},

		"running, changed, mended now":              {running, observed{Machine: is(isRunning, ensure)}, step{action: actEnsure, why: whyDrift}},
		"running, changed in two ways":              {running, observed{Machine: is(isRunning, off, ensure)}, step{action: actEnsure, why: whyDrift}},
		"running, changed, mended once off":         {running, observed{Machine: is(isRunning, off)}, step{action: actWait, why: whySettled}},
		"running, connected elsewhere":              {running, observed{Machine: is(isRunning, powerOff)}, step{action: actStopForce, why: whyDrift}},
		"running, connected elsewhere, image gone":  {unknown, observed{Machine: is(isRunning, powerOff)}, step{action: actStopForce, why: whyDrift}},
		"running, connected elsewhere and damaged":  {running, observed{Machine: is(isRunning, none, powerOff)}, step{action: actStopForce, why: whyDrift}},
		"running, connected elsewhere, to be off":   {stopped, observed{Machine: is(isRunning, powerOff)}, step{action: actStopForce, why: whyDrift}},
		"running, damaged":                          {running, observed{Machine: is(isRunning, none)}, step{action: actWait, why: whySettled}},
		"running, damaged and changed":              {running, observed{Machine: is(isRunning, ensure, none)}, step{action: actWait, why: whySettled}},
		"running, changed, image gone":              {unknown, observed{Machine: is(isRunning, ensure)}, step{action: actWait, why: whySettled}},
		"paused, connected elsewhere":               {running, observed{Machine: is(providers.PowerPaused, powerOff)}, step{action: actStopForce, why: whyDrift}},
		"shutting down, connected elsewhere":        {running, observed{Machine: is(providers.PowerStopping, powerOff)}, step{action: actStopForce, why: whyDrift}},
		"saved, connected elsewhere, to run":        {running, observed{Machine: is(providers.PowerSaved, powerOff)}, step{action: actStopForce, why: whyDrift}},
		"saved, connected elsewhere, to stay saved": {suspended, observed{Machine: is(providers.PowerSaved, powerOff)}, step{action: actWait, why: whySettled}},
		"saved, changed, to run":                    {running, observed{Machine: is(providers.PowerSaved, off)}, step{action: actStart}},

		"isolation not seen":            {running, observed{Machine: unseen}, step{actWait, whySettled, isolationRecheck}},
		"isolation not seen for 10 s":   {running, observed{Machine: unseen, UnisolatedSince: ago(10 * time.Second)}, step{actWait, whySettled, isolationRecheck}},
		"isolation not seen for 30 s":   {running, observed{Machine: unseen, UnisolatedSince: ago(isolationPatience)}, step{action: actStopForce, why: whyUnisolated}},
		"isolation seen since":          {running, observed{Machine: is(isRunning), UnisolatedSince: ago(time.Hour)}, step{action: actWait, why: whySettled}},
		"isolation not seen, to be off": {stopped, observed{Machine: unseen}, step{action: actStopGraceful, after: providers.StopGrace}},

		"put right for the first time":   {running, observed{Machine: is(isOff), RepairedAt: t0, Repairs: 1}, step{action: actStart}},
		"put right for the second time":  {running, observed{Machine: is(isOff), RepairedAt: ago(3 * time.Second), Repairs: 2}, step{actWait, whyRepaired, 7 * time.Second}},
		"put right again and again":      {running, observed{Machine: is(isOff), RepairedAt: t0, Repairs: 100}, step{actWait, whyRepaired, 5 * time.Minute}},
		"put right again, and waited":    {running, observed{Machine: is(isOff), RepairedAt: ago(time.Hour), Repairs: 100}, step{action: actStart}},
		"put right again, to stay off":   {stopped, observed{Machine: is(isOff), RepairedAt: t0, Repairs: 100}, step{action: actWait, why: whySettled}},
		"put right with policy of Never": {never, observed{Machine: is(isOff), RepairedAt: t0, Repairs: 1}, step{action: actStart}},
	} {
		if got := next(tt.d, tt.o, t0); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", name, got, tt.want)
		}
	}
}

// TestDriftedTells names what is told of each change, and of what looks like one.
func TestDriftedTells(t *testing.T) {
	started := func(st *v1.SandboxStatus) { st.StartedAt = &metav1.Time{Time: t0} }
	was := func(conditionType, reason, message string) func(*v1.SandboxStatus) {
		return func(st *v1.SandboxStatus) {
			st.Conditions = []metav1.Condition{{Type: conditionType, Reason: reason, Message: message, Status: metav1.ConditionFalse, LastTransitionTime: metav1.NewTime(t0.Add(-time.Hour))}}
		}
	}
	off := func(r providers.OffReason) *providers.Machine {
		return &providers.Machine{Power: providers.PowerOff, OffReason: r}
	}
	on := func(p providers.Power, remedies ...providers.Remedy) *providers.Machine {
		return &providers.Machine{Power: p, Drift: driftOf(remedies...)}
	}
	for name, tt := range map[string]struct {
		m            *providers.Machine
		power        v1.PowerState
		status       func(*v1.SandboxStatus)
		reason, then string
	}{
		"never made":            {nil, v1.PowerRunning, nil, "", ""},
		"lost":                  {nil, v1.PowerRunning, func(st *v1.SandboxStatus) { st.MachineID = "x" }, v1.ReasonMachineLost, "made again"},
		"forced off":            {off(providers.OffDestroyed), v1.PowerRunning, started, v1.ReasonPowerChanged, "started again"},
		"forced off by us":      {off(providers.OffDestroyed), v1.PowerRunning, nil, "", ""},
		"forced off, to be off": {off(providers.OffDestroyed), v1.PowerStopped, started, "", ""},
		"crashed":               {off(providers.OffCrashed), v1.PowerRunning, started, "", ""},
		"shut down":             {off(providers.OffShutdown), v1.PowerRunning, started, "", ""},
		"host rebooted":         {off(providers.OffUnknown), v1.PowerRunning, started, "", ""},
		"paused":                {on(providers.PowerPaused), v1.PowerRunning, started, v1.ReasonPowerChanged, "run on"},
		"paused in a start":     {on(providers.PowerPaused), v1.PowerRunning, nil, "", ""},
		"running":               {on(providers.PowerRunning), v1.PowerRunning, started, "", ""},
		"started although it is to be off": {
			on(providers.PowerRunning), v1.PowerStopped, was(v1.ConditionPoweredOn, v1.ReasonStopped, ""), v1.ReasonPowerChanged, "Stopped",
		},
		"resumed although it is to be suspended": {
			on(providers.PowerRunning), v1.PowerSuspended, was(v1.ConditionPoweredOn, v1.ReasonSuspended, ""), v1.ReasonPowerChanged, "Suspended",
		},
		"started by hand, shutting down": {
			on(providers.PowerStopping), v1.PowerStopped, was(v1.ConditionDrifted, v1.ReasonPowerChanged, startedWhat+seenAt+"x)"), v1.ReasonPowerChanged, "Stopped",
		},
		"to be off since now": {on(providers.PowerRunning), v1.PowerStopped, was(v1.ConditionPoweredOn, v1.ReasonRunning, ""), "", ""},
		"off, changed":        {&providers.Machine{Power: providers.PowerOff, Drift: driftOf(providers.RemedyOff)}, v1.PowerRunning, nil, v1.ReasonDefinitionChanged, "being put back"},
		"on, changed":         {on(providers.PowerRunning, providers.RemedyOff), v1.PowerRunning, nil, v1.ReasonDefinitionChanged, "once the machine is off"},
		"saved, changed":      {on(providers.PowerSaved, providers.RemedyOff), v1.PowerSuspended, nil, v1.ReasonDefinitionChanged, "when the machine goes on"},
		"saved, to run":       {on(providers.PowerSaved, providers.RemedyPowerOff), v1.PowerRunning, nil, v1.ReasonDefinitionChanged, "powered off to be"},
		"saved, to stay so":   {on(providers.PowerSaved, providers.RemedyPowerOff), v1.PowerSuspended, nil, v1.ReasonDefinitionChanged, "without its saved memory"},
		"on, being changed":   {on(providers.PowerRunning, providers.RemedyEnsure), v1.PowerRunning, nil, v1.ReasonDefinitionChanged, "being put back"},
		"on, moved":           {on(providers.PowerRunning, providers.RemedyPowerOff), v1.PowerRunning, nil, v1.ReasonDefinitionChanged, "powered off"},
		"on, damaged":         {on(providers.PowerRunning, providers.RemedyNone), v1.PowerRunning, nil, v1.ReasonDefinitionChanged, "put it back"},
		"on for long, unseen": {on(providers.PowerRunning), v1.PowerRunning, was(v1.ConditionNetworkIsolated, v1.ReasonNotObserved, ""), v1.ReasonNetworkChanged, "powered off"},
	} {
		sbx := &v1.Sandbox{}
		if tt.status != nil {
			tt.status(&sbx.Status)
		}
		v := &view{sbx: sbx, machine: tt.m, desired: desired{Power: tt.power, Known: true}, now: t0}
		got := drifted(v)
		if got.reason != tt.reason || !strings.Contains(got.then, tt.then) || (got.what == "") != (tt.reason == "") {
			t.Errorf("%s: told %+v, want %s ... %s", name, got, tt.reason, tt.then)
		}
	}
}

// TestDriftedSince: a change is told with when it was seen first, another one anew, and
// that a setting waits for a restart only when nobody else changed anything.
func TestDriftedSince(t *testing.T) {
	sbx := &v1.Sandbox{}
	v := view{sbx: sbx, machine: &providers.Machine{Power: providers.PowerRunning, Hashes: wanted}, now: t0}
	look := func(after time.Duration, what told) *metav1.Condition {
		v.now, v.told = t0.Add(after), what
		setDrifted(v)
		return meta.FindStatusCondition(sbx.Status.Conditions, v1.ConditionDrifted)
	}
	one, two := told{"A", "one", "then"}, told{"A", "two", "then"}
	later := one
	later.then = "other"
	for i, step := range []struct {
		after         time.Duration
		tell          told
		since         time.Duration
		reason, begin string
		end           string
	}{
		{0, one, 0, "A", "one (seen at 2026-01-02T03:04:05Z)", ": then"},
		{time.Minute, later, 0, "A", "one (seen at 2026-01-02T03:04:05Z)", ": other"},
		{2 * time.Minute, two, 2 * time.Minute, "A", "two (seen at 2026-01-02T03:06:05Z)", ": then"},
		{3 * time.Minute, told{}, 3 * time.Minute, v1.ReasonRestartRequired, "cpus", "to take effect"},
		{4 * time.Minute, one, 4 * time.Minute, "A", "one (seen at 2026-01-02T03:08:05Z)", ": then"},
	} {
		c := look(step.after, step.tell)
		if c == nil || c.Status != metav1.ConditionTrue || c.Reason != step.reason || !strings.HasPrefix(c.Message, step.begin) ||
			!strings.HasSuffix(c.Message, step.end) || !c.LastTransitionTime.Equal(&metav1.Time{Time: t0.Add(step.since)}) {
			t.Errorf("look %d: %+v", i, c)
		}
	}
	v.desired.Hashes = wanted
	if c := look(5*time.Minute, told{}); c != nil {
		t.Errorf("put right, it is still %+v", c)
	}
}

// TestRestrainSaved: a saved machine that is to stay so keeps its memory, whatever is
// wrong with it and with its spec.
func TestRestrainSaved(t *testing.T) {
	v := &view{
		sbx: &v1.Sandbox{}, observed: true, now: t0, desired: desired{Power: v1.PowerSuspended},
		machine: &providers.Machine{Power: providers.PowerSaved, Drift: driftOf(providers.RemedyPowerOff)},
	}
	(&Reconciler{}).restrain(t.Context(), nil, v) // which would crash if it asked the provider for anything
	if v.last != (step{}) || !v.observed {
		t.Errorf("done is %+v", v.last)
	}
}
