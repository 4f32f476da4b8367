package gitops

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/manifest"
)

// FieldManager owns the fields that are applied from a directory.
const FieldManager = "sandboxd-manifests"

// Live is an object with the directory's label.
type Live struct {
	manifest.Identity
	UID             types.UID
	ResourceVersion string
	// Mark changes when a field that was applied is changed or removed by somebody
	// else. It is empty when nothing was applied by us.
	Mark string
	// Edition changes with what people set of the object, and not with its status.
	Edition string
	// Protected: it is not to be pruned.
	Protected bool
	// Deleting: it was deleted, and waits for its finalizers.
	Deleting bool
}

// liveOf makes a Live of an object as a watch has it.
func liveOf(gk schema.GroupKind, o metav1.Object) Live {
	return Live{
		Identity:        manifest.Identity{Kind: gk, Namespace: o.GetNamespace(), Name: o.GetName()},
		UID:             o.GetUID(),
		ResourceVersion: o.GetResourceVersion(),
		Mark:            markOf(o.GetManagedFields()),
		Edition:         editionOf(o),
		Protected:       o.GetAnnotations()[v1.AnnotationPrune] == v1.PruneDisabled,
		Deleting:        o.GetDeletionTimestamp() != nil,
	}
}

// markOf is a digest of which fields are ours. Whoever changes one of them takes it
// over, so that it is not among ours any more; one that only another field of the
// object changed leaves ours alone.
func markOf(entries []metav1.ManagedFieldsEntry) string {
	for _, e := range entries {
		if e.Manager == FieldManager && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == "" && e.FieldsV1 != nil {
			return digest(e.APIVersion, e.FieldsV1)
		}
	}
	return ""
}

// editionOf is the generation, which labels and annotations do not change, with the
// time of what was last changed by applying.
func editionOf(o metav1.Object) string {
	for _, e := range o.GetManagedFields() {
		if e.Manager == FieldManager && e.Operation == metav1.ManagedFieldsOperationApply && e.Time != nil {
			return fmt.Sprint(o.GetGeneration(), " ", e.Time.Unix())
		}
	}
	return fmt.Sprint(o.GetGeneration())
}

func digest(parts ...any) string {
	h := sha256.New()
	_ = json.NewEncoder(h).Encode(parts) // of plain values
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Record is what applying an object led to.
type Record struct {
	UID types.UID
	// Digest of what was applied.
	Digest string
	// Mark of the object afterwards.
	Mark string
}

// Input is what a plan depends on.
type Input struct {
	// Source is the identity of the directory, its label's value.
	Source string
	Files  []File
	// Unread says why the files are not those that are in the directory now, if so.
	Unread error
	// Live are the objects with the directory's label.
	Live map[manifest.Identity]Live
	// Records of former rounds of this process.
	Records map[manifest.Identity]Record
	// Prune: objects that left the directory are deleted.
	Prune bool
	// Unchanged is how long the files are as they are.
	Unchanged time.Duration
	// Hold is how long many deletions wait.
	Hold time.Duration
}

// Target is an object to apply.
type Target struct {
	manifest.Object
	// Path of its file.
	Path   string
	Digest string
	// Before is what there is of the object; its zero value when there is nothing.
	Before Live
}

// Failure is something that is not as it should be.
type Failure struct {
	// Path of the file, or empty.
	Path string
	// Object that it is about, if it is about one.
	Object manifest.Identity
	Err    error
}

// Plan is what is to be done.
type Plan struct {
	// Apply these, in the order of manifest.InOrder.
	Apply []Target
	// Settled is how many objects are as their manifests say.
	Settled int
	// Prune these, in the reverse order, if all of Apply went well.
	Prune []Live
	// Held says why Prune is empty although objects left the directory, and how many.
	Held      string
	HeldCount int
	// HeldFor is how long it stays so when nothing changes; 0: until something does.
	HeldFor time.Duration
	// Kept left the directory and are protected, by their annotation or by the API.
	Kept []manifest.Identity
	// Waiting are being deleted, and made again afterwards.
	Waiting  []manifest.Identity
	Failures []Failure
}

// Deletions up to fewMost go at once. More are held back when they are more than
// half of all.
const fewMost = 5

// Decide says what is to be done.
//
// Deleting more than five objects that are more than half of the inventory waits
// until the directory has stayed as it is for Hold. The directory that shrank so is
// more often the wrong branch, a volume that is not mounted or an rsync without its
// source than an intention; and a mistake can be taken back meanwhile by putting
// the files back, while an intention loses minutes only and needs nobody's hand.
func Decide(in Input) Plan {
	p := Plan{}
	wanted := map[manifest.Identity]Target{}
	objects := 0
	for _, f := range in.Files {
		if f.Err != nil {
			p.Failures = append(p.Failures, Failure{Path: f.Path, Err: f.Err})
		}
		for _, o := range f.Objects {
			objects++
			id := manifest.IdentityOf(o)
			if first, ok := wanted[id]; ok {
				p.Failures = append(p.Failures, Failure{f.Path, id, o.Errorf("%s is in %s already: keep one of them", o.ID(), first.Source)})
				continue
			}
			wanted[id] = p.want(in, id, f.Path, o)
		}
	}
	gone := p.gone(in, wanted)
	p.Held, p.HeldFor = hold(in, len(gone), objects, len(p.Failures))
	if p.Held == "" {
		p.Prune = gone
	} else {
		p.HeldCount = len(gone)
	}
	return p
}

// want decides over an object that is in the directory.
func (p *Plan) want(in Input, id manifest.Identity, path string, o manifest.Object) Target {
	o = manifest.Object{Unstructured: labelled(o.Unstructured, in.Source), Source: o.Source}
	live, exists := in.Live[id]
	t := Target{o, path, digest(o.Object), live}
	record, known := in.Records[id]
	switch {
	case exists && live.Deleting:
		p.Waiting = append(p.Waiting, id)
	case exists && known && record == Record{live.UID, t.Digest, live.Mark}:
		p.Settled++
	default:
		p.Apply = append(p.Apply, t)
	}
	return t
}

// labelled is a copy of an object with the label of the directory.
func labelled(u *unstructured.Unstructured, source string) *unstructured.Unstructured {
	u = u.DeepCopy()
	labels := u.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[v1.LabelManifests] = source
	u.SetLabels(labels)
	return u
}

// gone lists what was applied from the directory and is not in it any more.
func (p *Plan) gone(in Input, wanted map[manifest.Identity]Target) []Live {
	var gone []Live
	for id, live := range in.Live {
		_, ok := wanted[id]
		switch {
		case ok || live.Deleting || live.Mark == "":
		case live.Protected || undeletable(id):
			p.Kept = append(p.Kept, id)
		default:
			gone = append(gone, live)
		}
	}
	slices.SortFunc(gone, func(a, b Live) int { return compare(a.Identity, b.Identity) })
	slices.SortFunc(p.Kept, compare)
	return gone
}

// undeletable tells of an object that the API never deletes.
func undeletable(id manifest.Identity) bool {
	return id.Kind.Kind == "Namespace" && id.Name == metav1.NamespaceDefault
}

// hold says why nothing is pruned; empty when it is, or when nothing would be.
func hold(in Input, gone, objects, failures int) (string, time.Duration) {
	mine := 0
	for _, live := range in.Live {
		if live.Mark != "" && !live.Deleting {
			mine++
		}
	}
	many := gone > fewMost && 2*gone > mine
	switch {
	case gone == 0:
		return "", 0
	case !in.Prune:
		return "pruning is switched off (manifests.prune)", 0
	case in.Unread != nil:
		return "the directory could not be read", 0
	case failures > 0:
		return "not all files could be read, and objects may have moved into those", 0
	case objects == 0:
		return "the directory holds no manifests: delete what is not wanted by hand if that is meant", 0
	case many && in.Unchanged < in.Hold:
		return fmt.Sprintf("%d of %d objects would be deleted at once: that waits until the directory has stayed as it is for %v", gone, mine, in.Hold),
			in.Hold - in.Unchanged
	}
	return "", 0
}

func compare(a, b manifest.Identity) int {
	return cmp.Or(cmp.Compare(a.Kind.String(), b.Kind.String()), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// GroupVersionKind is for manifest.InOrder.
func (l Live) GroupVersionKind() schema.GroupVersionKind { return l.Kind.WithVersion("") }
