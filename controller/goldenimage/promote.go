package goldenimage

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// An image whose source is a sandbox is a copy of the sandbox's disk, or of one of
// its snapshots, at one moment. Its revision is derived from the UIDs of what was
// copied, so that another sandbox of the same name is not taken for it. Once it is
// sealed, status.origin keeps the UIDs: the revision stays wanted, whatever becomes
// of the sandbox, until the source names another sandbox or snapshot.

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

// pinned is the source of an image with the UIDs of what its names stood for: what
// its revision is derived from.
func pinned(source v1.ImageSource, o *origin) v1.ImageSource {
	if source.Sandbox == nil || o == nil {
		return source
	}
	return v1.ImageSource{Sandbox: &v1.SandboxSource{Name: o.UID, Snapshot: o.SnapshotUID}}
}

// findOrigin finds out what the sandbox is that an image is to be made of; nil when
// its source is something else.
func (r *Reconciler) findOrigin(ctx context.Context, img *v1.GoldenImage) (*origin, error) {
	src := img.Spec.Source.Sandbox
	if src == nil {
		return nil, nil
	}
	if was := img.Status.Origin; was != nil && was.Source == *src {
		return &origin{ImageOrigin: *was, provider: img.Status.Provider}, nil
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
	case s.origin != nil && s.sealed != nil:
		made := s.origin.ImageOrigin
		st.Origin = &made
	}
}

// describeRevision adds to what is listed of the sealed revision.
func describeRevision(s *state) {
	for i := range s.img.Status.Revisions {
		if h := &s.img.Status.Revisions[i]; h.Revision == s.sealed.Revision {
			h.VirtualSize, h.ActualSize = s.img.Status.VirtualSize, s.img.Status.ActualSize
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
