// Package goldenimage reconciles GoldenImages: it has each one's source
// imported and sealed by its provider, keeps old revisions for the sandboxes
// that were cloned from them, and removes what nobody needs any more.
//
//	observe: sealed revisions, import under way, sandboxes that use each
//	   │
//	next ─┬─ Import   start (or look after) the import job of the wanted revision
//	      ├─ Settle   the wanted revision is sealed
//	      ├─ Hold     being deleted, but sandboxes use it
//	      └─ Remove   being deleted, unused: remove every revision
//
// An import runs for minutes, outside of the reconciler, in a job keyed by
// image and revision; its end wakes the reconciler. It is cancelled when the
// image is deleted or its source changes.
//
// # Consistency
//
// Images and sandboxes are read from a cache that may lag. That a revision is
// unused is therefore checked by the provider again, on the disks themselves,
// before anything is removed (ErrBusy).
package goldenimage
