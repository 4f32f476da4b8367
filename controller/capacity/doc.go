// Package capacity shares out what the host has among the machines that are to
// run on it: memory, cpus, disk, and how many there may be.
//
//	ask ──▶ in line ──▶ reserved ──▶ kept while it exists or runs ──▶ released
//	           │  ▲         │                                            │
//	           │  └─────────┴── the next in line are woken ◀─────────────┘
//	           └──▶ too large: more than there is at all
//
// Who asks first is served first: in the order in which the objects were created,
// then of their names. Nobody is let past who takes anything of what one before it
// needs, so that a large one is not starved by small ones; who needs nothing of it,
// as a machine that needs disk needs nothing of what others wait for who need
// memory, goes on.
//
// The queue decides, and is pure. It has everybody in order who is in line or about to
// be, and whatever happens changes the place of few of them only: so ten thousand in line
// are no more work for each claim than ten. The Ledger is the authority: reconcilers ask
// it before an effect, and two of them never get the same place. What was reserved is
// also written into the objects' status, before the effect, so that the Ledger is as
// it was after a restart. What is seen to run always keeps its place, also when there
// is less than that.
package capacity
