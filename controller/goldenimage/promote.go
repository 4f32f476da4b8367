package goldenimage

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/goldenimage/build"
	"sandboxd.dev/sandboxd/providers"
)

// An image whose source is a sandbox is a copy of the sandbox's disk, or of one of
// its snapshots, at one moment. Its revision is derived from the UIDs of what was
// copied, so that another sandbox of the same name is not taken for it. From before
// the copy begins status.origin keeps the UIDs: once it is sealed the revision stays
// wanted, whatever becomes of the sandbox, until the source names another sandbox or
// snapshot. As long as nothing is sealed or copied, the names are looked up anew.

// IndexOrigin is the field index of GoldenImages by the sandbox that is their
// source, as NAMESPACE/NAME.
const IndexOrigin = "spec.source.sandbox"

// OriginKey is the value of IndexOrigin of an image; empty without one.
func OriginKey(img *v1.GoldenImage) string {
	if src := img.Spec.Source.Sandbox; src != nil {
		return src.Namespace + "/" + src.Name
	}
	return ""
}

// origin is what an image is made of, when its source is a sandbox.
type origin struct {
	v1.ImageOrigin
	// provider of the sandbox.
	provider v1.ProviderName
}

// holder is the provider that has the disk; empty when there is none.
func (o *origin) holder() v1.ProviderName {
	if o == nil {
		return ""
	}
	return o.provider
}

// object names the sandbox in messages.
func (o *origin) object() string {
	return fmt.Sprintf("sandbox %s/%s", o.Source.Namespace, o.Source.Name)
}

// disk that is copied.
func (o *origin) disk() *providers.DiskRef {
	return &providers.DiskRef{Machine: types.UID(o.UID), Snapshot: types.UID(o.SnapshotUID)}
}

// pinned is the spec of an image whose source has the UIDs of what its names stood
// for: what its revisions are derived from.
func pinned(spec v1.GoldenImageSpec, o *origin) v1.GoldenImageSpec {
	if spec.Source.Sandbox != nil && o != nil {
		spec.Source = v1.ImageSource{Sandbox: &v1.SandboxSource{Name: o.UID, Snapshot: o.SnapshotUID}}
	}
	return spec
}

// promoted is the disk that a revision is to be a copy of; nil when its source is
// no sandbox. It is looked at once more before the copy begins.
func (r *Reconciler) promoted(ctx context.Context, s *state, revision string) (*providers.DiskRef, error) {
	if s.img.Spec.Source.Sandbox == nil {
		return nil, nil
	}
	if !r.o.Imports.Active(func(k Key) bool { return k == s.key(revision) }) {
		if err := readable(ctx, s.provider, s.img, s.origin); err != nil {
			return nil, err
		}
		// What is sealed next is found by it, also if the sandbox vanishes and the
		// daemon dies before anybody has looked.
		made := s.origin.ImageOrigin
		s.img.Status.Origin = &made
		if err := r.persist(ctx, s); err != nil {
			return nil, err
		}
	}
	return s.origin.disk(), nil
}

// keptOrigin is what status.origin says that an image was made of, or begun to be;
// nil when it speaks of another source.
func keptOrigin(img *v1.GoldenImage) *origin {
	src, was := img.Spec.Source.Sandbox, img.Status.Origin
	if src == nil || was == nil || was.Source != *src {
		return nil
	}
	return &origin{ImageOrigin: *was, provider: img.Status.Provider}
}

// keeps tells whether what status.origin speaks of is sealed, or being copied. A copy
// that failed keeps nothing: another sandbox may have the name by now.
func (r *Reconciler) keeps(ctx context.Context, s *state, p providers.Provider, o *origin) (bool, error) {
	plan := build.PlanOf(pinned(s.img.Spec, o))
	for _, revision := range []string{plan.Revision, plan.Base} {
		if revision == "" {
			continue
		}
		if st, begun := r.o.Imports.Get(s.key(revision)); begun && st.Err == nil {
			return true, nil
		}
		if sealed, err := look(ctx, p, s.ref(revision)); err != nil || sealed != nil {
			return true, err
		}
	}
	return false, nil
}

// observeOrigin fills in what the image is made of. What is missing of it matters only
// to an image that is not being deleted.
func (r *Reconciler) observeOrigin(ctx context.Context, s *state) (missing, err error) {
	if kept := keptOrigin(s.img); kept != nil {
		p, err := r.o.Providers.Get(kept.provider)
		if err != nil {
			s.origin = kept
			return nil, nil // which is said when the provider is asked for
		}
		if keeps, err := r.keeps(ctx, s, p, kept); keeps || err != nil {
			s.origin = kept
			return nil, err
		}
	}
	s.origin, missing = r.findOrigin(ctx, s.img)
	return missing, nil
}

// findOrigin finds out what the sandbox is that an image is to be made of; nil when
// its source is something else.
func (r *Reconciler) findOrigin(ctx context.Context, img *v1.GoldenImage) (*origin, error) {
	src := img.Spec.Source.Sandbox
	if src == nil {
		return nil, nil
	}
	o := &origin{ImageOrigin: v1.ImageOrigin{Source: *src}}
	sbx := &v1.Sandbox{}
	err := r.o.Client.Get(ctx, client.ObjectKey{Namespace: src.Namespace, Name: src.Name}, sbx)
	switch {
	case apierrors.IsNotFound(err):
		return nil, providers.Errorf(providers.ErrNotFound, o.object(), "it does not exist: image %q waits for it", img.Name).
			WithReason(providers.ReasonSourceNotFound)
	case err != nil:
		return nil, err
	case sbx.Status.MachineID == "":
		return nil, providers.Errorf(providers.ErrNotFound, o.object(), "it has no machine yet: image %q waits for it", img.Name).
			WithReason(providers.ReasonSourceNotFound)
	}
	o.UID, o.provider = string(sbx.UID), sbx.Status.Provider
	if src.Snapshot == "" {
		return o, nil
	}
	return o, r.findSnapshot(ctx, img, o)
}

func (r *Reconciler) findSnapshot(ctx context.Context, img *v1.GoldenImage, o *origin) error {
	snap := &v1.SandboxSnapshot{}
	object := fmt.Sprintf("snapshot %s/%s", o.Source.Namespace, o.Source.Snapshot)
	err := r.o.Client.Get(ctx, client.ObjectKey{Namespace: o.Source.Namespace, Name: o.Source.Snapshot}, snap)
	switch {
	case apierrors.IsNotFound(err):
		return providers.Errorf(providers.ErrNotFound, object, "it does not exist: image %q waits for it", img.Name).
			WithReason(providers.ReasonSourceNotFound)
	case err != nil:
		return err
	case snap.Spec.Sandbox != o.Source.Name:
		return providers.Errorf(providers.ErrInvalid, object, "it is of sandbox %q, not of %q as source.sandbox says",
			snap.Spec.Sandbox, o.Source.Name)
	case !meta.IsStatusConditionTrue(snap.Status.Conditions, v1.ConditionReady):
		return providers.Errorf(providers.ErrBusy, object, "it is not ready yet: image %q waits for it", img.Name).
			WithReason(providers.ReasonSourceNotFound)
	}
	o.SnapshotUID = string(snap.UID)
	return nil
}

// readable refuses a sandbox whose disk cannot be copied as it is.
func readable(ctx context.Context, p providers.Provider, img *v1.GoldenImage, o *origin) error {
	if o.provider != p.Name() {
		return providers.Errorf(providers.ErrInvalid, fmt.Sprintf("image %q", img.Name),
			"%s is a machine of %s, and the image one of %s: set spec.provider of a new image to %s",
			o.object(), o.provider, p.Name(), o.provider)
	}
	if o.SnapshotUID != "" {
		return nil
	}
	m, err := p.GetMachine(ctx, types.UID(o.UID))
	switch {
	case errors.Is(err, providers.ErrNotFound):
		return providers.Errorf(providers.ErrNotFound, o.object(), "it has no machine yet: image %q waits for it", img.Name).
			WithReason(providers.ReasonSourceNotFound)
	case err != nil:
		return err
	case m.Power != providers.PowerOff:
		return providers.Errorf(providers.ErrBusy, o.object(),
			"it is on (%s), and an image is made of a disk that does not change: stop it, or name one of its snapshots in source.sandbox.snapshot of image %q",
			m.Power, img.Name).WithReason(v1.ReasonSandboxOn)
	}
	return nil
}

// recordOrigin keeps what the sealed revision was made of.
func recordOrigin(s *state) {
	st := &s.img.Status
	switch {
	case s.img.Spec.Source.Sandbox == nil:
		st.Origin = nil
	case s.origin != nil && (s.sealed != nil || s.base != nil):
		made := s.origin.ImageOrigin
		st.Origin = &made
	}
}

// describeRevision adds to what is listed of a sealed revision.
func describeRevision(s *state, sealed *providers.Image) {
	for i := range s.img.Status.Revisions {
		if h := &s.img.Status.Revisions[i]; h.Revision == sealed.Revision {
			h.VirtualSize = resource.NewQuantity(sealed.VirtualSize, resource.BinarySI)
			h.ActualSize = resource.NewQuantity(sealed.ActualSize, resource.BinarySI)
			h.Source = provenance(s.img.Spec.Source)
		}
	}
}

// provenance says in a few words where a revision came from.
func provenance(source v1.ImageSource) string {
	switch {
	case source.Disk != nil && source.Disk.URL != "":
		return source.Disk.URL
	case source.Disk != nil:
		return source.Disk.Path
	case source.OCI != nil && source.OCI.Reference != "":
		return "oci " + source.OCI.Reference
	case source.OCI != nil:
		return "oci layout " + source.OCI.Layout
	case source.Machine != nil && source.Machine.Snapshot != "":
		return "machine " + source.Machine.Name + "@" + source.Machine.Snapshot
	case source.Machine != nil:
		return "machine " + source.Machine.Name
	case source.ISO != nil && source.ISO.URL != "":
		return "iso " + source.ISO.URL
	case source.ISO != nil:
		return "iso " + source.ISO.Path
	case source.Sandbox != nil && source.Sandbox.Snapshot != "":
		return "sandbox " + source.Sandbox.Namespace + "/" + source.Sandbox.Name + "@" + source.Sandbox.Snapshot
	case source.Sandbox != nil:
		return "sandbox " + source.Sandbox.Namespace + "/" + source.Sandbox.Name
	}
	return ""
}
