// Package bolt is the embedded store: one bbolt file, held by one process.
//
// # The file
//
//	meta                                    bucket: what this file is
//	├── format   = "sandboxd.dev/store"
//	├── schema   = 1                        uint64; see migrations
//	├── instance = UUID                     made once, with the file
//	└── revision = 4711                     uint64; of the last write
//	objects                                 bucket: every entry
//	└── resource 00 namespace 00 name       = revision (uint64), crc32c (uint32), value
//
// Numbers are big endian. No part of a key holds a zero byte, so the order of
// the keys' bytes is the order by resource, namespace and name. The checksum
// covers key, revision and value: bbolt guards its two header pages only.
//
// # Opening
//
//	create, if absent ─▶ look, read only ─▶ open and lock ─▶ migrate ─▶ load
//
// A new store is laid out under another name and linked to its own when it is
// whole, so no crash leaves half a store. Any other file is looked at before
// it is opened for writing: its structure is verified page by page, because
// bbolt panics or worse on a damaged file, and it must carry our format and a
// schema that this version knows. What is refused has not been changed.
//
// # How a write is committed
//
//	Put ────┐          ┌──────────────── one goroutine ─────────────────────┐
//	Put ────┼─▶ wait ──┤ gather ─▶ decide ─▶ bbolt transaction ─▶ publish ──┤─▶ answers
//	Delete ─┘          └────────────────────────────────────────────────────┘
//
// The committer takes every write that waits (gather), decides each by itself
// on the state as the writes before it left it, so that a conflict of one is no
// failure of another (decide), and writes the outcome with the new revision in
// one transaction: two fsyncs for all of them. Only then, under the lock that
// readers take, do the index, the revision and the watch logs move on together
// (publish). While one group is on its way to the disk the next one collects;
// with nothing to write the goroutine sleeps on a channel.
//
// # Reading
//
// All entries are kept in memory too, in an ordered index that is loaded when
// the store is opened and follows the file from then on. So a read never waits
// for the disk, never sees a write that a power failure could still take back,
// which a bbolt read transaction would show between the write of the header
// page and its fsync, and never stalls while bbolt remaps a file that grows. It
// costs the size of the values in memory.
//
// # Watching
//
// Each resource has a log of its last events, bounded by number and bytes, and
// a watcher is a cursor in it: a chatty resource does not push a quiet one's
// history out, and a slow watcher holds no memory of its own. It is dropped
// when the log has lost an event that it has not read.
//
// # When the disk fails
//
// A failed transaction fails its whole group and changes nothing, on a full
// disk for example; the store goes on and later writes may succeed. Only if the
// file shows a failed transaction all the same, because its header page was
// written but not known to be synced, does the store take no more writes until
// it is opened anew: reads still tell the last state known to be on disk.
package bolt
