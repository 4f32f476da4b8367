package bolt

import (
	"slices"
	"strings"

	"sandboxd.dev/sandboxd/store"
)

// record is an entry as it is kept in memory. It is never changed: a write
// puts another in its place, so whoever holds one may read it without a lock.
type record struct {
	key      store.Key
	value    []byte
	revision int64
}

// entry is the record as callers see it. They share its value: a list of many
// objects for many clients takes no memory beyond theirs.
func (r *record) entry() store.Entry {
	return store.Entry{Key: r.key, Value: slices.Clip(r.value), Revision: r.revision}
}

// table holds the records of one resource, ordered by namespace and name.
type table []*record

// index holds all records, by resource.
type index map[string]table

// get returns the record of a key or nil.
func (x index) get(key store.Key) *record {
	t := x[key.Resource]
	if i, found := t.find(key.Namespace, key.Name); found {
		return t[i]
	}
	return nil
}

// list returns the records of a namespace, or of all when it is empty. The
// result is a part of the index.
func (x index) list(resource, namespace string) table {
	t := x[resource]
	if namespace == "" {
		return t
	}
	from, _ := t.find(namespace, "")
	to, _ := t.find(namespace+"\x00", "") // the next possible namespace
	return t[from:to]
}

// set puts a record in the place of the one of the same key, if any.
func (x index) set(r *record) {
	t := x[r.key.Resource]
	i, found := t.find(r.key.Namespace, r.key.Name)
	if found {
		t[i] = r
		return
	}
	x[r.key.Resource] = slices.Insert(t, i, r)
}

// remove takes out the record of a key, if any.
func (x index) remove(key store.Key) {
	t := x[key.Resource]
	if i, found := t.find(key.Namespace, key.Name); found {
		x[key.Resource] = slices.Delete(t, i, i+1)
	}
}

// find returns where a record is or would be.
func (t table) find(namespace, name string) (int, bool) {
	return slices.BinarySearchFunc(t, struct{}{}, func(r *record, _ struct{}) int {
		if c := strings.Compare(r.key.Namespace, namespace); c != 0 {
			return c
		}
		return strings.Compare(r.key.Name, name)
	})
}
