// Package soak runs a daemon for days of simulated time and lets everything go wrong.
//
//	users ──▶ API server ──▶ controllers ──▶ weather ──▶ the simulated host
//	  │        on a store       on a wall      errors,       ▲
//	  │        on disk          clock that     lost          │ crashes, outages, reboots,
//	  │                         jumps          outcomes      │ hands of others
//	  └── kills and restarts the daemon                      └── chaos
//
// The store, the API server and the controllers are the real ones; time is that of
// testing/synctest. Every so often the weather clears, nobody does anything for as long
// as the bounds on retries and sweeps say that things may take, and then an audit
// demands that every object is what its spec says, or says why it cannot be, that
// nothing on the host is without an object, and that nothing was tried more often than
// the backoff allows.
//
// The plan of what users and chaos do is drawn from a seed, which is printed: the same
// seed plans the same again. Which goroutine runs first is not part of the plan.
package soak
