package sandbox

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/capacity"
	"sandboxd.dev/sandboxd/providers"
)

const gi = int64(1) << 30

func quantity(n int64) *resource.Quantity { return resource.NewQuantity(n, resource.BinarySI) }

func TestNeed(t *testing.T) {
	defaults := Defaults{CPUs: 1, Memory: *quantity(gi / 2)}
	img := &v1.GoldenImage{
		Spec:   v1.GoldenImageSpec{Machine: v1.MachineDefaults{CPUs: 2}},
		Status: v1.GoldenImageStatus{VirtualSize: quantity(10 * gi), Revisions: []v1.ImageRevision{{Revision: "old", VirtualSize: quantity(3 * gi)}}},
	}
	for name, c := range map[string]struct {
		spec     v1.SandboxSpec
		revision string
		img      *v1.GoldenImage
		want     capacity.Amount
	}{
		"defaults":       {v1.SandboxSpec{}, "", img, capacity.Amount{gi / 2, 2, 10 * gi, 1}},
		"its own":        {v1.SandboxSpec{CPUs: 4, Memory: quantity(2 * gi), DiskSize: quantity(20 * gi)}, "", img, capacity.Amount{2 * gi, 4, 20 * gi, 1}},
		"an older clone": {v1.SandboxSpec{}, "old", img, capacity.Amount{gi / 2, 2, 3 * gi, 1}},
		"no image":       {v1.SandboxSpec{Memory: quantity(2 * gi)}, "", nil, capacity.Amount{2 * gi, 0, 0, 1}},
	} {
		sbx := &v1.Sandbox{Spec: c.spec, Status: v1.SandboxStatus{ImageRevision: c.revision}}
		if got := Need(sbx, c.img, defaults); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

// TestHoldings: what a machine has and is to have, in each of its states.
func TestHoldings(t *testing.T) {
	spec := capacity.Amount{2 * gi, 2, 10 * gi, 1}
	old := capacity.Amount{1 * gi, 4, 5 * gi, 1}
	rest := func(a capacity.Amount) capacity.Amount { return atRest(a) }
	wanted := providers.Hashes{Hardware: "wanted"}
	machine := func(p providers.Power, hardware string) *providers.Machine {
		return &providers.Machine{Power: p, OffReason: providers.OffShutdown, Hashes: providers.Hashes{Hardware: hardware}}
	}
	started := time.Unix(1000, 0)
	for name, c := range map[string]struct {
		machine *providers.Machine
		power   v1.PowerState
		restart v1.RestartPolicy
		started bool
		held    capacity.Amount
		step    step
		has     capacity.Amount
		want    capacity.Amount
		urgent  bool
	}{
		"to be made and started":        {nil, v1.PowerRunning, "", false, capacity.Amount{}, step{action: actEnsure}, capacity.Amount{}, spec, false},
		"lost, to be made again":        {nil, v1.PowerRunning, "", true, spec, step{action: actEnsure}, capacity.Amount{}, spec, false},
		"to be made, and not started":   {nil, v1.PowerStopped, "", false, capacity.Amount{}, step{action: actEnsure}, capacity.Amount{}, rest(spec), false},
		"waits for its image":           {nil, v1.PowerRunning, "", false, capacity.Amount{}, step{action: actWait, why: whyImage}, capacity.Amount{}, capacity.Amount{}, false},
		"runs":                          {machine(providers.PowerRunning, "wanted"), v1.PowerRunning, "", true, spec, step{action: actWait}, spec, spec, false},
		"runs, and nobody knew":         {machine(providers.PowerRunning, "wanted"), v1.PowerRunning, "", true, capacity.Amount{}, step{action: actWait}, spec, spec, false},
		"runs as it was":                {machine(providers.PowerRunning, "older"), v1.PowerRunning, "", true, old, step{action: actWait}, old, old, false},
		"paused":                        {machine(providers.PowerPaused, "wanted"), v1.PowerRunning, "", true, spec, step{action: actRestart}, spec, spec, false},
		"shuts down":                    {machine(providers.PowerStopping, "wanted"), v1.PowerStopped, "", true, spec, step{action: actWait, why: whyShutdown}, spec, spec, false},
		"off":                           {machine(providers.PowerOff, "wanted"), v1.PowerStopped, "", true, spec, step{action: actWait, why: whySettled}, rest(spec), rest(spec), false},
		"off by itself and left off":    {machine(providers.PowerOff, "wanted"), v1.PowerRunning, v1.RestartNever, true, spec, step{action: actWait, why: whyExited}, rest(spec), rest(spec), false},
		"off by itself, later started":  {machine(providers.PowerOff, "wanted"), v1.PowerRunning, "", true, spec, step{action: actWait, why: whyCrashLoop}, rest(spec), spec, false},
		"put right, later started":      {machine(providers.PowerOff, "wanted"), v1.PowerRunning, "", false, spec, step{action: actWait, why: whyRepaired}, rest(spec), spec, false},
		"to be started":                 {machine(providers.PowerOff, "wanted"), v1.PowerRunning, "", false, rest(spec), step{action: actStart}, rest(spec), spec, false},
		"to be changed and started":     {machine(providers.PowerOff, "older"), v1.PowerRunning, "", false, rest(old), step{action: actEnsure}, rest(old), spec, false},
		"to be changed and left off":    {machine(providers.PowerOff, "older"), v1.PowerRunning, v1.RestartNever, true, rest(old), step{action: actEnsure}, rest(old), rest(spec), false},
		"to be suspended":               {machine(providers.PowerRunning, "wanted"), v1.PowerSuspended, "", true, spec, step{action: actSuspend}, spec, spec.Plus(capacity.Amount{capacity.Disk: 2 * gi}), true},
		"suspended":                     {machine(providers.PowerSaved, "wanted"), v1.PowerSuspended, "", true, spec, step{action: actWait}, capacity.Amount{0, 0, 12 * gi, 1}, capacity.Amount{0, 0, 12 * gi, 1}, false},
		"to be resumed":                 {machine(providers.PowerSaved, "wanted"), v1.PowerRunning, "", true, capacity.Amount{0, 0, 12 * gi, 1}, step{action: actStart}, capacity.Amount{0, 0, 12 * gi, 1}, capacity.Amount{2 * gi, 2, 12 * gi, 1}, false},
		"to be resumed with the memory": {machine(providers.PowerSaved, "older"), v1.PowerRunning, "", true, capacity.Amount{0, 0, 18 * gi, 1}, step{action: actStart}, capacity.Amount{0, 0, 18 * gi, 1}, capacity.Amount{8 * gi, 2, 18 * gi, 1}, false},
		"to be stopped":                 {machine(providers.PowerRunning, "wanted"), v1.PowerStopped, "", true, spec, step{action: actStopGraceful}, spec, spec, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := New(Options{Defaults: Defaults{CPUs: 1, Memory: *quantity(gi)}})
			v := &view{
				sbx: &v1.Sandbox{
					ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "a", UID: "a"},
					Spec:       v1.SandboxSpec{CPUs: 2, Memory: quantity(2 * gi), DiskSize: quantity(10 * gi)},
				},
				img: &v1.GoldenImage{}, machine: c.machine, last: c.step, now: started.Add(time.Hour),
				desired: desired{Power: c.power, Restart: firstSet(c.restart, v1.RestartAlways), Hashes: wanted, ImageReady: true},
			}
			if c.started {
				at := metav1.NewTime(started)
				v.sbx.Status.StartedAt = &at
			}
			r.o.Capacity.Keep(whoIs(v.sbx), v.sbx.UID, c.held)
			has := r.has(v)
			want, urgent := r.wants(v, has)
			if has != c.has || want != c.want || urgent != c.urgent {
				t.Errorf("has %v, wants %v (urgent %v)\nwant %v and %v (%v)", has, want, urgent, c.has, c.want, c.urgent)
			}
		})
	}
}

// TestWillRun: a machine that is put right is going to run also when it is powered off
// for the second time in a row, and so is started later.
func TestWillRun(t *testing.T) {
	now := time.Unix(1000, 0)
	d := desired{Power: v1.PowerRunning, Restart: v1.RestartAlways, ImageReady: true}
	for name, c := range map[string]struct {
		power   v1.PowerState
		repairs int32
		want    bool
	}{
		"for the first time":  {v1.PowerRunning, 1, true},
		"for the second time": {v1.PowerRunning, 2, true},
		"to be left off":      {v1.PowerStopped, 2, false},
	} {
		d.Power = c.power
		o := observed{Machine: &providers.Machine{Power: providers.PowerOff}, RepairedAt: now, Repairs: c.repairs}
		if got := willRun(d, o, now); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestExposedWhileItWaitsForRoom: a machine whose isolation is not seen is looked at
// again as soon as ever, also when what is next has to wait for room.
func TestExposedWhileItWaitsForRoom(t *testing.T) {
	for name, c := range map[string]struct {
		machine *providers.Machine
		action  action
		want    time.Duration
	}{
		"not seen":    {&providers.Machine{Power: providers.PowerRunning}, actSuspend, isolationRecheck},
		"seen":        {&providers.Machine{Power: providers.PowerRunning, Network: providers.NetworkObservation{Isolated: true}}, actSuspend, 0},
		"not there":   {nil, actEnsure, 0},
		"powered off": {&providers.Machine{Power: providers.PowerOff}, actStart, 0},
	} {
		r := New(Options{Capacity: capacity.New(capacity.Amount{4 * gi, 8, 10 * gi, 9}, nil)})
		r.o.Capacity.Keep(capacity.Who{Namespace: "team", Name: "other"}, "other", capacity.Amount{3 * gi, 0, 10 * gi, 1})
		r.o.Recorder = silent{}
		v := &view{
			sbx: &v1.Sandbox{
				ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "a", UID: "a"},
				Spec:       v1.SandboxSpec{CPUs: 2, Memory: quantity(2 * gi)},
			},
			img: &v1.GoldenImage{}, machine: c.machine, last: step{action: c.action}, now: time.Unix(1000, 0),
			desired: desired{Power: v1.PowerRunning, Restart: v1.RestartAlways, ImageReady: true},
		}
		if r.admit(t.Context(), v) || v.last.why != whyCapacity || v.last.after != c.want {
			t.Errorf("%s: %+v, want it to wait and to be looked at after %v", name, v.last, c.want)
		}
	}
}

type silent struct{}

func (silent) Eventf(runtime.Object, runtime.Object, string, string, string, string, ...any) {}
