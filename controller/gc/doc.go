// Package gc collects what is left on a hypervisor when its object is gone: a
// machine, disk, seed, network or file of this daemon's own instance whose
// Sandbox, GoldenImage or SandboxSnapshot does not exist (any more).
//
//	sweep:  1. list the hypervisor's inventory
//	        2. list the objects             (in this order: a thing seen in 1
//	        3. plan                          whose object is missing in 2 was
//	        4. remove what is due            not just about to get one)
//
//	first seen without an object ──▶ suspect ── still so after the grace ──▶ removed
//	                                    │
//	                                    └── its object appears, or it goes: forgotten
//
// What the daemon keeps for objects besides the hypervisors, such as the logs of
// builds, is swept as a provider's things are: each is a Place.
//
// Only things that bear the full ID of the instance are ever removed. What
// merely looks like it is reported. The provider looks once more before it
// removes anything.
package gc
