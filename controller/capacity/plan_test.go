package capacity

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

const (
	mi = int64(1) << 20
	gi = int64(1) << 30
)

// claim of one that was created at a second.
func claim(name string, second int64, base, want Amount) Claim {
	return Claim{
		Place: Place{Who: Who{"team", name}, ID: types.UID(name), Created: time.Unix(second, 0)},
		Base:  base, Want: want,
	}
}

func TestPlan(t *testing.T) {
	budget := Amount{12 * gi, 8, 100 * gi, 10}
	admitted := Verdict{Admitted: true}
	figures := func(message string) Verdict { return Verdict{Reason: v1.ReasonCapacity, Message: message} }
	behind := func(message string) Verdict { return Verdict{Reason: v1.ReasonWaitingInLine, Message: message} }
	small, off := Amount{2 * gi, 1, 10 * gi, 1}, Amount{0, 0, 10 * gi, 1}
	urgent := claim("saves", 9, small, Amount{2 * gi, 1, 12 * gi, 1})
	urgent.Urgent = true
	away := claim("a", 1, Amount{}, small)
	away.Away = true
	for name, c := range map[string]struct {
		state State
		want  []Verdict
	}{
		"room for all": {
			State{Line: []Claim{claim("a", 1, Amount{}, small), claim("b", 2, Amount{}, small)}},
			[]Verdict{admitted, admitted},
		},
		"the figures": {
			State{Held: Amount{12*gi - 1288490189}, Line: []Claim{claim("a", 1, Amount{}, small)}},
			[]Verdict{figures("needs 2Gi memory, 1.2Gi of 12Gi free")},
		},
		"several figures": {
			State{Held: Amount{11 * gi, 7}, Line: []Claim{claim("a", 1, off, Amount{2 * gi, 4, 10 * gi, 1})}},
			[]Verdict{figures("needs 2Gi memory, 1Gi of 12Gi free, and 4 cpus, 1 of 8 free")},
		},
		"more is held than there is": {
			State{Held: Amount{13 * gi}, Line: []Claim{claim("a", 1, Amount{}, small)}},
			[]Verdict{figures("needs 2Gi memory, 0Ki of 12Gi free")},
		},
		"no place left": {
			State{Held: Amount{Sandboxes: 10}, Line: []Claim{claim("a", 1, Amount{}, small)}},
			[]Verdict{figures("needs a place, 0 of 10 free")},
		},
		"a small one waits behind a large one": {
			State{Held: Amount{9 * gi}, Line: []Claim{claim("large", 1, Amount{}, Amount{4 * gi, 1, gi, 1}), claim("small", 2, Amount{}, small)}},
			[]Verdict{
				figures("needs 4Gi memory, 3Gi of 12Gi free"),
				behind("needs 2Gi memory, 1 cpu, 10Gi disk and a place, and waits behind team/large, which needs 4Gi memory, 1 cpu, 1Gi disk and a place"),
			},
		},
		"it goes on once there is room for both": {
			State{Held: Amount{6 * gi}, Line: []Claim{claim("large", 1, Amount{}, Amount{4 * gi, 8, gi, 1}), claim("small", 2, off, Amount{2 * gi, 1, 10 * gi, 1})}, Budget: Amount{12 * gi, 9, 100 * gi, 10}},
			[]Verdict{admitted, admitted},
		},
		"what needs nothing of what is short goes past": {
			State{Held: Amount{11 * gi}, Line: []Claim{claim("runs", 1, off, small), claim("is made", 2, Amount{}, off)}},
			[]Verdict{figures("needs 2Gi memory, 1Gi of 12Gi free"), admitted},
		},
		"but not when that would take what the first one needs": {
			State{Held: Amount{11 * gi, 0, 85 * gi, 1}, Line: []Claim{claim("runs", 1, Amount{}, small), claim("is made", 2, Amount{}, off)}},
			[]Verdict{
				figures("needs 2Gi memory, 1Gi of 12Gi free"),
				behind("needs 10Gi disk and a place, and waits behind team/runs, which needs 2Gi memory, 1 cpu, 10Gi disk and a place"),
			},
		},
		"both short and behind": {
			State{Held: Amount{11 * gi}, Line: []Claim{claim("a", 1, off, small), claim("b", 2, off, small)}},
			[]Verdict{
				figures("needs 2Gi memory, 1Gi of 12Gi free"),
				figures("needs 2Gi memory, 1Gi of 12Gi free, and waits behind team/a, which needs 2Gi memory and 1 cpu"),
			},
		},
		"nobody waits behind one that is more than there is": {
			State{Held: Amount{0, 0, 40 * gi, 1}, Line: []Claim{claim("large", 1, Amount{}, Amount{gi, 1, 150 * gi, 1}), claim("b", 2, Amount{}, Amount{gi, 1, 60 * gi, 1}), claim("c", 3, Amount{}, small)}},
			[]Verdict{figures("needs 150Gi disk, 0Ki of 100Gi free"), admitted, figures("needs 10Gi disk, 0Ki of 100Gi free")},
		},
		"nor behind one that was not looked at": {
			State{Coming: []Claim{claim("large", 1, Amount{}, Amount{gi, 1, 150 * gi, 1})}, Line: []Claim{claim("b", 2, Amount{}, small)}},
			[]Verdict{admitted},
		},
		"nor behind one whose hypervisor does not answer": {
			State{Held: Amount{9 * gi}, Line: []Claim{away, claim("b", 2, Amount{}, small), claim("c", 3, Amount{}, small)}},
			[]Verdict{passing("waits until its hypervisor answers"), admitted, figures("needs 2Gi memory, 1Gi of 12Gi free")},
		},
		"one that was not looked at yet": {
			State{Held: Amount{9 * gi}, Coming: []Claim{claim("a", 1, Amount{}, small)}, Line: []Claim{claim("b", 2, Amount{}, small)}},
			[]Verdict{passing("waits until those before it in line have been looked at")},
		},
		"one that was not looked at, with room for both": {
			State{Coming: []Claim{claim("a", 1, Amount{}, small)}, Line: []Claim{claim("b", 2, Amount{}, small)}},
			[]Verdict{admitted},
		},
		"one that was not looked at and is later": {
			State{Held: Amount{9 * gi}, Coming: []Claim{claim("c", 3, Amount{}, small)}, Line: []Claim{claim("b", 2, Amount{}, small)}},
			[]Verdict{admitted},
		},
		"just started": {
			State{Unseen: true, Line: []Claim{claim("a", 1, Amount{}, small)}},
			[]Verdict{passing("waits until the daemon has looked at what ran before it was started")},
		},
		"what frees memory goes first": {
			State{Held: Amount{12 * gi, 8, 95 * gi, 9}, Line: []Claim{claim("a", 1, Amount{}, small), urgent}},
			[]Verdict{figures("needs 2Gi memory, 0Ki of 12Gi free, and 1 cpu, 0 of 8 free, and 10Gi disk, 3Gi of 100Gi free"), admitted},
		},
		"no limit": {
			State{Budget: NoLimit(), Held: small, Line: []Claim{claim("a", 1, Amount{}, Amount{Unlimited / 2, Unlimited / 2, Unlimited / 2, 1})}},
			[]Verdict{admitted},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := c.state
			if s.Budget == (Amount{}) {
				s.Budget = budget
			}
			in := slices.Clone(s.Line)
			sorted(s.Line)
			for how, got := range map[string][]Verdict{"in the queue": queued(s), "by one who goes through everybody": s.replanned()} {
				for i, claim := range in {
					at := slices.IndexFunc(s.Line, func(other Claim) bool { return other.ID == claim.ID })
					if got[at] != c.want[i] {
						t.Errorf("%s, %s: got %+v\nwant %+v", claim.Name, how, got[at], c.want[i])
					}
				}
			}
		})
	}
}

// queued plans as the Ledger does.
func queued(s State) []Verdict {
	q := queue{ranks: rand.NewPCG(0, 0)}
	entries := make([]*entry, len(s.Line))
	for i, c := range s.Line {
		entries[i] = q.put(nil, &entry{Claim: c, waits: true, exceeds: exceeds(c, s.Budget)})
	}
	for _, c := range s.Coming {
		q.put(nil, &entry{Claim: c, exceeds: exceeds(c, s.Budget)})
	}
	free := s.Budget.free(s.Held)
	verdicts := make([]Verdict, len(s.Line))
	if !s.Unseen {
		for _, e := range q.next(free) {
			verdicts[slices.Index(entries, e)] = Verdict{Admitted: true}
			free = free.free(e.needs)
			q.put(e, nil)
		}
	}
	for i, e := range entries {
		if !verdicts[i].Admitted {
			verdicts[i] = whyWaits(e, q.position(e, free), s.Budget, free, s.Unseen).verdict()
		}
	}
	return verdicts
}

// replanned has those who wait told what is so after the others were admitted.
func (s State) replanned() []Verdict {
	verdicts := s.Plan()
	after := s
	after.Line = nil
	for i, v := range verdicts {
		if v.Admitted {
			after.Held = after.Held.Plus(s.Line[i].needs())
		} else {
			after.Line = append(after.Line, s.Line[i])
		}
	}
	told := after.Plan()
	for i, v := range verdicts {
		if !v.Admitted {
			verdicts[i], told = told[0], told[1:]
		}
	}
	return verdicts
}

// TestPlanTellsFewTheFigures: of a long line only those at its head are told what
// changes with every release.
func TestPlanTellsFewTheFigures(t *testing.T) {
	say := func(held Amount, from int64) map[string]string {
		s := State{Budget: Amount{12 * gi, 8, 100 * gi, Unlimited}, Held: held}
		for i := from; i < 1000; i++ {
			s.Line = append(s.Line, claim(string(rune('a'+i%26))+time.Unix(i, 0).UTC().Format("150405"), i, Amount{}, Amount{gi, 1, gi, 1}))
		}
		said := map[string]string{}
		for i, v := range queued(s) {
			if !v.Admitted {
				said[s.Line[i].Name] = v.Message
			}
		}
		return said
	}
	changed := 0
	before, after := say(Amount{12 * gi, 8, 0, 0}, 0), say(Amount{11*gi + 1, 7, 0, 0}, 1)
	for name, message := range after {
		if before[name] != message {
			changed++
		}
	}
	if len(after) != 999 || changed == 0 || changed > figured+1 {
		t.Errorf("%d of %d are told something else after one release, want between 1 and %d", changed, len(after), figured+1)
	}
}

func TestTooLarge(t *testing.T) {
	budget := Amount{12 * gi, 8, 100 * gi, Unlimited}
	for name, c := range map[string]struct {
		base, want Amount
		message    string
	}{
		"fits":     {Amount{}, Amount{12 * gi, 8, 100 * gi, 1}, ""},
		"memory":   {Amount{}, Amount{64 * gi, 1, gi, 1}, "needs 64Gi memory, and this host has 12Gi for sandboxes at all: ask for less, or raise capacity.memory"},
		"both":     {Amount{}, Amount{64 * gi, 9, gi, 1}, "needs 64Gi memory, and this host has 12Gi for sandboxes at all; 9 cpus, and this host has 8 for sandboxes at all: ask for less, or raise capacity.memory and capacity.cpus"},
		"has more": {Amount{0, 0, 200 * gi, 1}, Amount{gi, 1, 200 * gi, 1}, ""},
	} {
		v, large := tooLarge(budget, claim("a", 1, c.base, c.want))
		if large != (c.message != "") || v.Message != c.message {
			t.Errorf("%s: got %q\nwant %q", name, v.Message, c.message)
		}
	}
}

func TestSize(t *testing.T) {
	for _, c := range []struct {
		bytes    int64
		down, up string
	}{
		{0, "0Ki", "0Ki"},
		{512 * mi, "512Mi", "512Mi"},
		{2 * gi, "2Gi", "2Gi"},
		{2*gi - 1, "1.9Gi", "2Gi"},
		{2*gi + 1, "2Gi", "2.1Gi"},
		{1288490189, "1.2Gi", "1.3Gi"},
		{gi + gi/2, "1.5Gi", "1.5Gi"},
		{gi - 1, "1023.9Mi", "1024Mi"},
		{5 << 50, "5Pi", "5Pi"},
	} {
		if down, up := size(c.bytes, false), size(c.bytes, true); down != c.down || up != c.up {
			t.Errorf("%d: got %s and %s, want %s and %s", c.bytes, down, up, c.down, c.up)
		}
	}
}

func TestBudget(t *testing.T) {
	facts := Facts{
		Memory: 16 * gi, CPUs: 8, DiskSize: 200 * gi, DiskFree: 100*gi + 3*mi,
		Machines: map[types.UID]int64{"a": 4 * gi, "snapshots": 30 * gi, "foreign": gi},
	}
	reserved := func(id types.UID) Amount {
		return map[types.UID]Amount{"a": {Disk: 10 * gi}, "snapshots": {Disk: 2 * gi}}[id]
	}
	none := [Disk + 1]float64{1, 1, 1}
	for name, c := range map[string]struct {
		settings Settings
		facts    Facts
		want     Amount
		most     int64 // of the disk; 0: as it is
	}{
		"of the host":       {Settings{Overcommit: none}, facts, Amount{16*gi - 16*gi/10, 8, 96 * gi, Unlimited}, 190 * gi},
		"small host":        {Settings{Overcommit: none}, Facts{Memory: 4 * gi, CPUs: 1}, Amount{3 * gi, 1, 0, Unlimited}, 0},
		"tiny host":         {Settings{Overcommit: none}, Facts{Memory: gi / 2, CPUs: 1}, Amount{0, 1, 0, Unlimited}, 0},
		"full disk":         {Settings{Overcommit: none}, Facts{Memory: 4 * gi, CPUs: 1, DiskSize: 100 * gi, DiskFree: gi}, Amount{3 * gi, 1, 0, Unlimited}, 95 * gi},
		"of twice the disk": {Settings{Overcommit: [Disk + 1]float64{1, 1, 2}}, facts, Amount{16*gi - 16*gi/10, 8, 192 * gi, Unlimited}, 380 * gi},
		"as configured":     {Settings{Total: Amount{gi, 2, 3 * gi, 4}, Overcommit: none}, facts, Amount{gi, 2, 3 * gi, 4}, 0},
		"overcommitted":     {Settings{Total: Amount{gi, 2, 3 * gi, 4}, Overcommit: [Disk + 1]float64{1.5, 4, 10}}, facts, Amount{gi + gi/2, 8, 30 * gi, 4}, 0},
		"without limit":     {Settings{Total: Amount{gi, 2, 3 * gi, 4}}, facts, Amount{Unlimited, Unlimited, Unlimited, 4}, 0},
	} {
		got := c.settings.Budget(c.facts, reserved)
		if got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
		if c.most > 0 {
			c.want[Disk] = c.most
		}
		if got := c.settings.Most(c.facts, got); got != c.want {
			t.Errorf("%s: at the most %v, want %v", name, got, c.want)
		}
	}
}
