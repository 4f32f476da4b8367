package capacity

import (
	"cmp"
	"fmt"
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
