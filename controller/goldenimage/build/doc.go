// Package build makes revisions of golden images in throw-away machines: it
// decides what is next, runs the steps in the guest and keeps their output.
//
//	Preparing ──▶ Installing ──▶ Booting ──▶ Provisioning ──▶ ShuttingDown ──▶ Sealing ──▶ Done
//	    ▲       (only from an        │             │                │              │
//	    │        installer)          └─────────────┴── guest lost ──┴──────────────┤
//	    └────────── machine discarded, begun again (a few times) ◀─────────────────┤
//	                                                                               ▼
//	      a step failed, or the time was up: machine discarded ──────────────▶ Failed
//
// The machine's ID is the UID of the GoldenImage: there is at most one, whoever
// finds it knows whose it is, and it is garbage once the image is gone.
//
// # What makes it safe to be killed
//
// A phase is written down before the first effect of it. The steps run in a job of
// this process, and nobody knows how far a job had come whose process is gone: a
// build in the phase Provisioning without a job is begun again with a fresh
// machine. ShuttingDown is written only when every step and the cleaning after
// them have ended well, and Sealing only when the guest was then seen to have shut
// down by itself. So a disk is sealed whole or not at all.
//
// # Other sources
//
// An image from a disk is imported first, as the revision without steps, and the
// machine is a clone of that. An installation has no such base: its machine boots
// an installer, which ends by powering the machine off.
package build
