// Package snapshot reconciles SandboxSnapshots: it has each one's state taken once
// its sandbox can be kept, says what became of it, and removes it when the object
// goes.
//
//	          no such sandbox, not made, starting, shutting down
//	             │
//	Pending ─────┴──▶ bound to a machine ──▶ Taking ──▶ Ready ──▶ Lost
//	                  (status.machineID,       ▲ │        the provider has it no more;
//	                   never changed again)    └─┘        it is never taken again
//	                                          failed, interrupted
//
//	deleted, or its sandbox is ──▶ InUse while forks of it have machines
//	                           ──▶ removed by itself, or along with its machine ──▶ gone
//
// A snapshot belongs to the machine that it was bound to. When the Sandbox of that
// machine is gone the snapshot is deleted, also when another Sandbox has taken over
// the name: that is another machine.
//
// Taking and removing may take long and run as jobs. While a state is taken nobody
// else acts on the machine: the job has the machine's turn. That the taking has
// begun is in the status before it begins (status.provider), so that a machine which
// a killed daemon has left standing still is known for what it is.
//
// # Consistency
//
// Objects are read from a cache that may lag. A stale read can have a snapshot taken
// of a machine that is about to go, which the provider refuses or the machine takes
// along, and can make a removal begin while a fork is being made, which the provider
// refuses.
package snapshot
