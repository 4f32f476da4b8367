package capacity

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// Who is an object that something is reserved for. Namespace is empty for a
// GoldenImage that is built in a machine.
type Who struct{ Namespace, Name string }

// String names it in a sentence.
func (w Who) String() string {
	if w.Namespace == "" {
		return "image " + w.Name
	}
	return w.Namespace + "/" + w.Name
}

// Compare orders names.
func (w Who) Compare(v Who) int {
	return cmp.Or(strings.Compare(w.Namespace, v.Namespace), strings.Compare(w.Name, v.Name))
}

// Place is one in line.
type Place struct {
	Who
	ID      types.UID
	Created time.Time
	// Urgent ones go before all others: they free more than they take.
	Urgent bool
}

// Compare orders places: the one that goes first is the smaller one.
func (p Place) Compare(q Place) int {
	switch {
	case p.Urgent && !q.Urgent:
		return -1
	case q.Urgent && !p.Urgent:
		return 1
	}
	return cmp.Or(p.Created.Compare(q.Created), p.Who.Compare(q.Who), strings.Compare(string(p.ID), string(q.ID)))
}

// Claim is what a machine is to have.
type Claim struct {
	Place
	// Base is what it has and keeps while it waits, and Want what it is to have.
	Base, Want Amount
	// Stale: something changed since it asked, and it is about to be looked at again.
	// Nothing is given to it before, and it keeps its place in line.
	Stale bool
	// Away: its hypervisor does not answer. Nothing is given to it, nobody waits for it,
	// and it keeps its place in line.
	Away bool
}

// needs is what it asks for in addition; never less than nothing.
func (c Claim) needs() Amount { return c.Want.Minus(c.Base).Max(Amount{}) }

// Verdict is what became of a claim.
type Verdict struct {
	// Admitted: it is reserved.
	Admitted bool
	// TooLarge: it is more than there is at all, whatever is released.
	TooLarge bool
	// Passing: it waits for others to be looked at, which takes a moment. What was
	// said before holds.
	Passing bool
	// Reason and Message say to a person why it waits.
	Reason, Message string
}

// figured is how many of those in line are told figures that change with every
// release. All others are told who is before them, which changes once: nobody has
// to be told anything else a thousand times.
const figured = 10

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

// exceeds tells whether a claim is more than there is, whoever ends. Nobody waits behind
// one that is: keeping others from what there is brings it no nearer.
func exceeds(c Claim, budget Amount) bool {
	for r, n := range c.Want {
		if n > c.Base[r] && n > budget[r] {
			return true
		}
	}
	return false
}

func passing(message string) Verdict {
	return Verdict{Passing: true, Reason: v1.ReasonWaitingInLine, Message: message}
}

// fits tells whether there is enough of what is needed. Of what is not needed there
// may be less than nothing.
func fits(needs, left Amount) bool {
	for r, n := range needs {
		if n > 0 && n > left[r] {
			return false
		}
	}
	return true
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

// tooLarge is why a claim can never be met, if it cannot: it is more than the most that
// there may be.
func tooLarge(most Amount, c Claim) (Verdict, bool) {
	var parts, settings []string
	for r, n := range c.Want {
		if n > c.Base[r] && n > most[r] {
			parts = append(parts, fmt.Sprintf("%s, and this host has %s for sandboxes at all", wanted(Resource(r), n), figure(Resource(r), most[r])))
			settings = append(settings, "capacity."+Resource(r).String())
		}
	}
	if parts == nil {
		return Verdict{}, false
	}
	return Verdict{TooLarge: true, Reason: v1.ReasonCapacity, Message: fmt.Sprintf(
		"needs %s: ask for less, or raise %s", strings.Join(parts, "; "), strings.Join(settings, " and "))}, true
}

func sorted(claims []Claim) []Claim {
	slices.SortFunc(claims, func(a, b Claim) int { return a.Compare(b.Place) })
	return claims
}
