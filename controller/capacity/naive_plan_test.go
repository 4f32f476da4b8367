package capacity

import (
	"fmt"
	"strings"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// State is what is known when it is decided.
type State struct {
	Budget Amount
	// Held is the sum of what is reserved, with the Base of those in line.
	Held Amount
	// Line are those that wait, in order.
	Line []Claim
	// Coming are those that were not looked at since they changed, in order. They
	// are about to get in line, with about what they Want.
	Coming []Claim
	// Unseen: not everything has been looked at that may run since before the
	// start. Nobody is admitted before.
	Unseen bool
}

// Plan decides about each one in line. What is admitted counts as held for those
// after it.
func (s State) Plan() []Verdict {
	verdicts := make([]Verdict, len(s.Line))
	var ahead Amount    // of those in line
	var expected Amount // of those that are coming
	next := 0
	free := s.Budget.free(s.Held)
	waiting := 0
	for i, c := range s.Line {
		for ; next < len(s.Coming) && s.Coming[next].Compare(c.Place) < 0; next++ {
			if !exceeds(s.Coming[next], s.Budget) {
				expected = expected.Plus(s.Coming[next].needs())
			}
		}
		needs := c.needs()
		left := free.free(ahead)
		if c.Away {
			verdicts[i] = passing("waits until its hypervisor answers")
			continue
		}
		switch {
		case s.Unseen:
			verdicts[i] = passing("waits until the daemon has looked at what ran before it was started")
		case c.Stale && fits(needs, left):
			verdicts[i] = passing("waits until it has been looked at again")
		case fits(needs, left.free(expected)):
			verdicts[i] = Verdict{Admitted: true}
			free = free.free(needs)
			continue
		case fits(needs, left):
			verdicts[i] = passing("waits until those before it in line have been looked at")
		default:
			verdicts[i] = s.explain(i, needs, free, left, verdicts, waiting < figured)
		}
		waiting++
		if !exceeds(c, s.Budget) {
			ahead = ahead.Plus(needs)
		}
	}
	return verdicts
}

// explain says why one waits: by the figures, or by whom it waits behind.
func (s State) explain(i int, needs, free, left Amount, verdicts []Verdict, figures bool) Verdict {
	short := s.short(needs, free)
	behind := s.before(i, needs, left, verdicts, figures)
	switch {
	case behind == nil:
		return Verdict{Reason: v1.ReasonCapacity, Message: "needs " + short}
	case figures && short != "":
		return Verdict{Reason: v1.ReasonCapacity, Message: fmt.Sprintf("needs %s, and waits behind %s, which needs %s", short, behind.Who, s.counted(behind.needs()))}
	default:
		return Verdict{Reason: v1.ReasonWaitingInLine, Message: fmt.Sprintf("needs %s, and waits behind %s, which needs %s", s.counted(needs), behind.Who, s.counted(behind.needs()))}
	}
}

// counted leaves out what there is no limit to.
func (s State) counted(a Amount) Amount {
	for r := range a {
		if s.Budget[r] == Unlimited {
			a[r] = 0
		}
	}
	return a
}

// short words what there is too little of; empty when there is enough of all.
func (s State) short(needs, free Amount) string {
	var parts []string
	for r, n := range needs {
		if n > 0 && n > free[r] {
			parts = append(parts, fmt.Sprintf("%s, %s of %s free", wanted(Resource(r), n), figure(Resource(r), free[r]), figure(Resource(r), s.Budget[r])))
		}
	}
	return strings.Join(parts, ", and ")
}

// before finds whom one waits behind: the first one in line that needs something of
// what is missing or, without figures, the last one.
func (s State) before(i int, needs, left Amount, verdicts []Verdict, first bool) *Claim {
	competes := func(c Claim) bool {
		for r, n := range c.needs() {
			if n > 0 && needs[r] > 0 && needs[r] > left[r] {
				return true
			}
		}
		return false
	}
	var found *Claim
	for j := range s.Line[:i] {
		if !verdicts[j].Admitted && !s.Line[j].Away && !exceeds(s.Line[j], s.Budget) && competes(s.Line[j]) {
			found = &s.Line[j]
			if first {
				break
			}
		}
	}
	return found
}
