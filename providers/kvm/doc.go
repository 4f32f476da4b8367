// Package kvm runs machines on QEMU through libvirt, accelerated by KVM where
// the host really can and emulated by TCG where it cannot.
//
//	GoldenImage ──ImportImage──▶ images/UID/REVISION.qcow2      sealed, read-only
//	                                     ▲ backing file
//	Sandbox ──EnsureMachine──▶ machines/UID/disk.qcow2 + seed.iso
//	                           domain (UUID = UID, record in its metadata)
//	                           network, bridge, firewall table (shared)
//	        ──Start──▶ domain paused ──looked at on the host──▶ running
//	        ──Exec ──▶ QEMU's guest agent
//	SandboxSnapshot ──TakeSnapshot──▶ machines/UID/layers/N.qcow2, snapshots/UID.json (layers.go)
//
// The provider remembers nothing between processes. What a machine is and
// whose, its domain says (internal/domain); what the names of networks,
// bridges and taps are follows from the instance and the Sandbox
// (internal/identity); everything else is in the data folder (layout.go).
//
// # Isolation
//
// A network mode is kept by several means at once: by libvirt's network (no
// forwarding, no host address), by isolated bridge ports, and by firewall
// tables of our own that name no machine and no bridge but prefixes, so that
// they hold from the moment a link exists (internal/firewall). That they hold
// is observed, at each start before the guest's CPUs run and at each
// GetMachine: the live XML, the taps and their bridges, the bridges'
// addresses, and the rules as the kernel has them (observe.go). Rules that
// somebody flushed are put back; until they were seen again, nothing is
// reported as isolated.
//
// # What others change
//
// A domain's record says what it was defined with. Each GetMachine compares that
// with what libvirt has, the disk's files and the host's links (drift.go,
// networkrepair.go, internal/domain); EnsureMachine puts right what destroys
// nothing of others.
//
// Needs: root, or at least CAP_NET_ADMIN for the modes intnet, hostonly and nat
// and the right to chown in the data folder; the daemon and libvirtd must see
// the same files and the same network namespace. Elsewhere than on Linux this
// package is empty.
package kvm
