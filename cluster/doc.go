// Package cluster is what a daemon needs to serve the objects of a Kubernetes
// cluster, instead of those of its own store:
//
//	Connect   the API server, as a kubeconfig or the daemon's own Pod says
//	Record    DATA/cluster.json: who this host is, and which cluster it belongs to
//	Identity  tells clusters apart, and a cluster from one that was set up anew
//	Lease     one host at a time, and always the same one
//	Proxy     what the local socket passes on
//	RBAC      the rights that all of that needs
//
// The life of a daemon in a cluster:
//
//	open Record ─▶ reach the API server ─▶ same cluster? ─▶ hold the Lease ─▶ controllers
//	                  ▲      │ no answer        │ no: end      │ another's       │
//	                  └──────┴──── again ◀──────────────────────┴──── lost ◀─────┘
//
// # What keeps machines from being taken for garbage
//
// Everything on a hypervisor that has no object is collected. So it matters that
// "no object" is true, and not the answer of another cluster or of one that forgot.
// Before anything is collected, Record.Check compares what is there with what was
// noted: the UID of the namespace kube-system, the UIDs of the definitions of our
// kinds, and the resource version, which only grows unless etcd was set back. One that
// was set back and whose versions were raised past what was noted is not recognised:
// docs/cluster.md says how to restore.
//
// # What keeps a Sandbox from having two machines
//
// A machine is on one host, and nothing moves it. The Lease therefore belongs to an
// instance and not to whoever comes first: a second host waits for as long as the
// Lease exists, also when the first one is down, because its machines may still run.
// Who knows that they do not deletes the Lease.
package cluster
