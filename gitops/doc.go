// Package gitops makes the API's objects what a directory of manifests says, all
// the time. Others fill the directory: git pull by a timer, git-sync, rsync, an
// editor. It is read and never written to.
//
//	each interval, and when an object is changed or deleted by others
//	  │
//	  ▼
//	Tree.Look ── files, twice the same, within bounds ──▶ Snapshot ┐
//	labelled objects, watched ───────────────────────────▶ Live    ├─▶ Decide ─▶ Plan
//	what the last rounds applied ────────────────────────▶ Records ┘     │
//	                                                                     ▼
//	     namespaces ─▶ secrets ─▶ images ─▶ sandboxes ─▶ snapshots: server-side apply
//	     and, if all of that went well, the reverse of it: delete what left the directory
//
// The inventory, which is what may be pruned, is kept with the objects themselves:
// applying gives each the label sandboxd.dev/manifests with the identity of the
// directory, in the same write that makes it, so no crash comes between. An object
// that has the label but not the field manager's mark was copied by somebody, and
// is left alone.
//
// One rule keeps a broken commit from deleting machines: nothing is pruned in a
// round in which anything could not be read or was refused. An object may have
// moved into just that file. A directory that is missing, empty or in the middle
// of a checkout prunes nothing, and neither does one that lost more than half of
// its objects at once, for a while (see Decide).
//
// Consistency: Live is a watch's view and may lag behind. Applying is idempotent,
// and deletions carry the UID and the version that was looked at, so a late view
// costs a round and nothing else.
package gitops
