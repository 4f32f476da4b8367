// Package virtualbox runs machines on VirtualBox, driven through VBoxManage.
//
//	GoldenImage ──ImportImage──▶ golden machine with a disk, sealed by a snapshot
//	                             (or an existing machine and snapshot, adopted)
//	                                     ▲ linked clone
//	Sandbox ──EnsureMachine──▶ machine (UUID = UID), record.json, seed.iso
//	        ──Start──▶ configuration looked at ──▶ headless process ──▶ looked at again
//	        ──EnsureMachine with an installer──▶ machine with a disk of its own, which
//	                             becomes a golden image (install.go)
//	        ──Exec ──▶ guest control of the Guest Additions
//	SandboxSnapshot ──TakeSnapshot──▶ VirtualBox's snapshot, named by its UID
//	        ──RevertMachine──▶ a new disk on the snapshot's, the memory adopted
//	        ──fork──▶ a machine of the image, its disk on the snapshot's
//
// What a machine was made from stands in record.json of its folder; that the
// machine which VirtualBox has under the UUID is the one, its place in that
// folder shows. Instance and owner stand in the machine's description as well,
// for people. The provider remembers nothing else between processes.
//
// # Isolation
//
// A machine's network cards are its configuration, which VirtualBox does not let
// anybody change in its file while it runs. It is looked at before each start and
// again when the machine runs, and each time GetMachine is asked: one card as
// the spec says or none, no other card, port or display, no clipboard, no shared
// folder that the spec does not name, and the port forwards as they were set.
//
// Not all that the modes promise can be had from VirtualBox, which has no filter.
// Its NAT is in the machine's process: the guest reaches what the host reaches,
// except the host's loopback addresses. A hostonly machine has a network of its
// own with the host, whose addresses all answer. Such machines run, and are not
// reported as isolated (see beyond).
//
// # Drift
//
// What the isolation rests on, and what else the machine was made as, is compared at
// each look, also while it is off (drift.go, flaws.go):
//
//	name, memory, CPUs, a folder or its own disk taken away ──▶ put back while it is off
//	clipboard, display, cable, port forwards                ──▶ put back at once, by controlvm
//	another network card or connection, another device,
//	folder, disk or CD: what reaches outside                ──▶ it must not run on
//	the adapter of its host-only network is gone            ──▶ likewise; if it is saved,
//	                                                            made anew when it goes on
//	a disk's file, one of several disks, snapshots by hand  ──▶ told, and left alone
package virtualbox
