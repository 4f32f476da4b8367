package apiserver

import (
	"fmt"
	"maps"
	"reflect"
	"time"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/rand"
)

// systemFields of the metadata are set by the server alone: an update keeps
// them as they are.
var systemFields = []string{
	"uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion",
}

// metadataOf returns an object's metadata, made when missing.
func metadataOf(obj map[string]any) map[string]any {
	meta, ok := obj["metadata"].(map[string]any)
	if !ok {
		meta = map[string]any{}
		obj["metadata"] = meta
	}
	return meta
}

// checkIdentity refuses an object that says it is another one than the path
// says, and fills in what it leaves out.
func checkIdentity(rq *request, u *unstructured.Unstructured) error {
	if name := u.GetName(); name == "" {
		u.SetName(rq.name)
	} else if rq.name != "" && name != rq.name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", name, rq.name))
	}
	if namespace := u.GetNamespace(); namespace == "" {
		if rq.namespace != "" {
			u.SetNamespace(rq.namespace)
		}
	} else if namespace != rq.namespace {
		return apierrors.NewBadRequest(fmt.Sprintf("the namespace of the object (%s) does not match the namespace on the URL (%s)",
			namespace, orWord(rq.namespace, "none, the kind is cluster-scoped")))
	}
	return nil
}

// prepareCreate gives a new object what the server determines. A name that is
// to be generated is generated here.
func (r *resource) prepareCreate(u *unstructured.Unstructured, now time.Time) {
	meta := metadataOf(u.Object)
	for _, name := range systemFields {
		delete(meta, name)
	}
	if r.status {
		delete(u.Object, "status")
	}
	if u.GetName() == "" && u.GetGenerateName() != "" {
		u.SetName(generatedName(u.GetGenerateName()))
	}
	meta["uid"] = uuid.NewString()
	meta["creationTimestamp"] = formatTime(now)
	if !r.ungenerated {
		meta["generation"] = int64(1)
	}
	if r.prepare != nil {
		r.prepare(u.Object, nil)
	}
}

// formatTime renders a time as metadata holds it, in whole seconds.
func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

const (
	maxGeneratedBase = 58 // so that base and suffix fit a DNS label
	generatedSuffix  = 5
)

// generatedName makes a name out of a prefix.
func generatedName(base string) string {
	if len(base) > maxGeneratedBase {
		base = base[:maxGeneratedBase]
	}
	return base + rand.String(generatedSuffix)
}

// onlyStatus is what a write to /status may make of an object: old with the
// status of u. The field owners of u are kept.
func onlyStatus(u, old *unstructured.Unstructured) *unstructured.Unstructured {
	merged := maps.Clone(old.Object)
	meta := maps.Clone(metadataOf(old.Object))
	if owners, ok := metadataOf(u.Object)["managedFields"]; ok {
		meta["managedFields"] = owners
	} else {
		delete(meta, "managedFields")
	}
	merged["metadata"] = meta
	if status, ok := u.Object["status"]; ok {
		merged["status"] = status
	} else {
		delete(merged, "status")
	}
	return &unstructured.Unstructured{Object: merged}
}

// prepareUpdate keeps from the stored object what an update through the main
// endpoint may not change, and counts the generation.
func (r *resource) prepareUpdate(u, old *unstructured.Unstructured) {
	meta, oldMeta := metadataOf(u.Object), metadataOf(old.Object)
	for _, name := range systemFields {
		if v, ok := oldMeta[name]; ok {
			meta[name] = v
		} else {
			delete(meta, name)
		}
	}
	if r.status {
		if status, ok := old.Object["status"]; ok {
			u.Object["status"] = status
		} else {
			delete(u.Object, "status")
		}
	}
	if r.prepare != nil {
		r.prepare(u.Object, old.Object)
	}
	if !r.ungenerated && len(changedParts(u.Object, old.Object)) > 0 {
		meta["generation"] = old.GetGeneration() + 1
	}
}

// sameExcept compares two maps but for one key.
func sameExcept(a, b map[string]any, except string) bool {
	for k, v := range a {
		if k == except {
			continue
		}
		w, ok := b[k]
		if !ok || !reflect.DeepEqual(v, w) {
			return false
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok && k != except {
			return false
		}
	}
	return true
}

// unchanged tells whether storing u instead of old would change nothing but
// the times at which fields were written.
func unchanged(u, old *unstructured.Unstructured) bool {
	return len(changedParts(u.Object, old.Object)) == 0 &&
		sameExcept(metadataOf(u.Object), metadataOf(old.Object), "managedFields") &&
		sameOwners(metadataOf(u.Object)["managedFields"], metadataOf(old.Object)["managedFields"])
}

// sameOwners compares two values of metadata.managedFields but for their times.
func sameOwners(a, b any) bool {
	as, _ := a.([]any)
	bs, _ := b.([]any)
	if len(as) != len(bs) {
		return false
	}
	for i := range as {
		am, aok := as[i].(map[string]any)
		bm, bok := bs[i].(map[string]any)
		if !aok || !bok || !sameExcept(am, bm, "time") {
			return false
		}
	}
	return true
}
