// Package crash kills the control plane at every point of every operation, and
// holds what comes after it against what must be.
//
//	a user's write ─▶ API server ─▶ │ store │ ─▶ acknowledged, on disk
//	                     │          ▲       ▲
//	                     ▼          │       └── after: on disk, nobody was told
//	                controllers     └────────── before: nothing was written
//	                     │
//	                     ▼
//	                │ provider │ ─▶ the hypervisor
//	                ▲    ▲     ▲
//	                │    │     └── after: it is done, nobody was told
//	                │    └──────── inside: between two of its steps (simulated host)
//	                └───────────── before: nothing was done
//
// An operation is lived once without a death, which counts its points, and once for
// each of them, which dies there. From its death on a control plane reaches neither
// store nor hypervisor: what it was about to do is not done, and nobody is told what
// was. Then another one starts on the same store and the same hypervisor, and the
// audit looks at both until nothing is wrong any more, or for too long:
//
//	converged    what was asked for is so, with the data that must be on the disks,
//	             exactly one machine for each sandbox and no restart that was none
//	orphans      what is left on the hypervisor or in the data folder of no object
//	duplicates   more than one machine for a sandbox, at the death or later
//	foreign      machines of others that are not exactly as before
//	lost         writes that were acknowledged and are not in the reopened store
//
// Run it by make crash-matrix. go test runs a sample, and without private
// hypervisors (hack/private-libvirt, hack/private-virtualbox) the simulated host
// only.
package crash
