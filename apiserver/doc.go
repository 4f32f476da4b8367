// Package apiserver serves the Kubernetes wire API over a store.Store.
//
// What it serves is data: the CustomResourceDefinitions handed to New, and the
// definitions of a few core kinds (builtin/*.yaml) written in the same form. A
// definition drives everything that is done with its kind: discovery, defaults,
// pruning, validation, field ownership, printer columns and OpenAPI. Outside
// the files named after them, no code knows a kind by name.
//
//	request ── route ── decode ─┬─ create ─┐
//	 (path,    (request.go)     ├─ update ─┤
//	  query,                    ├─ patch ──┼─ own fields ─ prepare ─ validate ─ admit ─ store.Put ─ respond
//	  user)                     └─ delete ─┘  (managed     (system    (schema,   (hooks)
//	                                           fields)      fields)    CEL rules)
//	          ── read: get, list, watch ── select ── render (object, Table, PartialObjectMetadata)
//
// # Stored form
//
// An object is stored as JSON with its metadata first and without
// metadata.resourceVersion, which is the revision of the entry:
//
//	{"metadata":{"name":…,…},"apiVersion":…,"kind":…,…}
//
// So a stored value becomes a served one by putting the resource version behind
// its first twelve bytes: lists and watches copy bytes and decode nothing unless
// a selector or another output form asks for it.
//
// # Consistency
//
// Every write carries the revision that was read, so two writers never
// overwrite each other; patches are computed again when another writer came
// between. Reads answer from the newest snapshot whatever resourceVersion the
// client allows; the pages of a list all show the state of the first, which the
// store's log gives back (page.go). A watch that cannot keep up is ended by the store and costs no
// memory beyond the store's own bounded log.
//
// # Events
//
// core/v1 and events.k8s.io/v1 Events are one set of objects, stored in their
// core/v1 form; the other form is a view (see view). Events are swept when their
// last write is older than Options.EventTTL, and the oldest ones when there are too
// many about one object, or in all.
package apiserver
