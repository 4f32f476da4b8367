// Package audit keeps the audit log: one line for each request, in files that are
// rotated by size.
//
//	Record ──▶ audit.log ── full ──▶ audit.log.1 ──▶ audit.log.2 ──▶ … ──▶ the oldest is removed
//	   │ cannot be written
//	   └──▶ kept in memory, told to the daemon's log ── Ready, Record: tried again first
//
// A line that was written is the kernel's: it survives the end of the daemon, and
// with Sync a crash of the host too. Half a line is never left before a whole one.
// While lines are waiting to be written Ready fails, so that the caller can refuse
// what it would not be able to record.
package audit
