package capacity

import (
	"fmt"
	"strings"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// figured is how many of those in line are told figures that change with every
// release. All others are told who is before them, which changes once: nobody has
// to be told anything else a thousand times.
const figured = 10

// position is where one is in line.
type position struct {
	// waiting is how many wait before it.
	waiting int
	// left is what those before it in line leave of what is free.
	left Amount
	// rival finds the first one, or the last one, of those before it whom somebody waits
	// behind and who needs any of some resources; nil when there is none.
	rival func(of resources, first bool) *entry
}

// why one waits, of which its verdict is made. Whoever waits for the same reason as
// before is told nothing new, and nothing has to be put into words to find that out.
type why struct {
	// passing is what is said to one who waits a moment only.
	passing string
	// needs is what it asks for, as far as that is limited.
	needs Amount
	// short is what there is too little of, with what is free of it and what there is at
	// all. Those who are told no figures have none.
	short        resources
	free, budget Amount
	// behind is whom it waits behind, if it does, and theirs what that one needs.
	waits  bool
	behind Who
	theirs Amount
}

// whyWaits tells why one waits that is not to be admitted.
func whyWaits(e *entry, at position, budget, free Amount, unseen bool) why {
	switch {
	case e.Away:
		return why{passing: "waits until its hypervisor answers"}
	case unseen:
		return why{passing: "waits until the daemon has looked at what ran before it was started"}
	case e.Stale && fits(e.needs, at.left):
		return why{passing: "waits until it has been looked at again"}
	case fits(e.needs, at.left):
		return why{passing: "waits until those before it in line have been looked at"}
	}
	figures := at.waiting < figured
	w := why{needs: counted(e.needs, budget)}
	if rival := at.rival(missing(e.needs, at.left), figures); rival != nil {
		w.waits, w.behind, w.theirs = true, rival.Who, counted(rival.needs, budget)
	}
	if w.waits && !figures {
		return w
	}
	w.short = missing(e.needs, free)
	for r := range free {
		if w.short.has(Resource(r)) {
			w.free[r], w.budget[r] = free[r], budget[r]
		}
	}
	return w
}

// verdict puts it into words: figures, or whom it waits behind.
func (w why) verdict() Verdict {
	switch {
	case w.passing != "":
		return Verdict{Passing: true, Reason: v1.ReasonWaitingInLine, Message: w.passing}
	case !w.waits:
		return Verdict{Reason: v1.ReasonCapacity, Message: "needs " + w.figures()}
	case w.short != 0:
		return Verdict{Reason: v1.ReasonCapacity, Message: fmt.Sprintf("needs %s, and waits behind %s, which needs %s", w.figures(), w.behind, w.theirs)}
	default:
		return Verdict{Reason: v1.ReasonWaitingInLine, Message: fmt.Sprintf("needs %s, and waits behind %s, which needs %s", w.needs, w.behind, w.theirs)}
	}
}

// figures word what there is too little of.
func (w why) figures() string {
	var parts []string
	for r, n := range w.needs {
		if r := Resource(r); w.short.has(r) {
			parts = append(parts, fmt.Sprintf("%s, %s of %s free", wanted(r, n), figure(r, w.free[r]), figure(r, w.budget[r])))
		}
	}
	return strings.Join(parts, ", and ")
}

// counted leaves out what there is no limit to.
func counted(a, budget Amount) Amount {
	for r := range a {
		if budget[r] == Unlimited {
			a[r] = 0
		}
	}
	return a
}
