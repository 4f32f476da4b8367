// Package sandbox reconciles Sandboxes: it makes each one's machine exist, run
// and be reachable as its spec says, and removes it when the Sandbox goes.
//
// One reconciliation observes the machine, lets next (a pure function) choose
// an action, carries it out, and repeats until there is nothing to do but
// wait. Then it writes the status once, if it changed:
//
//	          ┌─────────────── observe ◀──────────────┐
//	          ▼                                       │
//	next(desired, observed, now) ── action ── carry out (idempotent)
//	          │
//	          └── wait ──▶ conditions, status, RequeueAfter
//
// Nothing but the status is remembered between two runs, and the status only
// where the hypervisor cannot tell: when a run began (startedAt), since when a
// guest has been asked to shut down (stoppingSince), which revert was carried
// out last. Losing any of these to a crash delays a step or repeats one.
//
// # Consistency
//
// Sandboxes and images are read from a cache that may lag. Acting on a stale
// read is harmless: every action is idempotent, the machine is observed
// directly, and the status is written only over the version that was read.
package sandbox
