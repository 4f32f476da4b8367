// Package admission refuses writes that the schema cannot judge, because they
// depend on the host or on other objects:
//
//	GoldenImage   CREATE, UPDATE   a source that cannot become an image, or the
//	                               password in a Secret that its writer may not read
//	Sandbox       CREATE           an image that is being deleted
//	Sandbox       CREATE, UPDATE   shared folders that the host does not allow
//
// An update is judged by what it changes: an object that was accepted once can
// always be labelled, finalized and given a status, whatever has become of the
// host since. The reconcilers make the same checks when they act, because the
// host changes; here they give whoever writes an answer at once.
package admission

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"sync"
	"syscall"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/hostpath"
	"sandboxd.dev/sandboxd/providers"
)

var (
	sandboxes    = v1.Resource("sandboxes")
	goldenImages = v1.Resource("goldenimages")
)

// Hook is an apiserver.Admission. It may be used concurrently.
type Hook struct {
	providers *providers.Set
	paths     *hostpath.Policy
	checked   checkedSources
}

var _ apiserver.Admission = (*Hook)(nil)

// New makes a Hook.
func New(set *providers.Set, paths *hostpath.Policy) *Hook {
	return &Hook{providers: set, paths: paths}
}

// Admit implements apiserver.Admission.
func (h *Hook) Admit(ctx context.Context, a apiserver.Attributes) error {
	switch {
	case a.Subresource != "":
		return nil
	case a.Operation == apiserver.Delete:
		return nil
	case a.Resource.GroupResource() == goldenImages:
		if err := passwordsLent(ctx, a); err != nil {
			return err
		}
		return h.imageWritten(ctx, a)
	case a.Resource.GroupResource() == sandboxes:
		return h.sandboxWritten(ctx, a)
	}
	return nil
}

// imageLasts refuses a new sandbox of an image that is being deleted, which stays as long
// as those that were there before use it: one more would let it stay for longer.
func imageLasts(ctx context.Context, a apiserver.Attributes, image string) (*field.Error, error) {
	img, err := a.Reader.Get(ctx, goldenImages, "", image)
	switch {
	case apierrors.IsNotFound(err): // the sandbox waits for it
		return nil, nil
	case err != nil:
		return nil, err
	case img.GetDeletionTimestamp() == nil:
		return nil, nil
	}
	return field.Forbidden(field.NewPath("spec", "image"), fmt.Sprintf(
		"GoldenImage %q is being deleted: wait until it is gone and apply it again before its sandboxes, or name another one", image)), nil
}

// sandboxWritten refuses images that are being deleted, and shared folders and places of
// artifacts that the host does not allow.
func (h *Hook) sandboxWritten(ctx context.Context, a apiserver.Attributes) error {
	var now, before v1.Sandbox
	if err := decode(a, &now, &before); err != nil {
		return err
	}
	var errs field.ErrorList
	if a.Operation == apiserver.Create {
		switch refused, err := imageLasts(ctx, a, now.Spec.Image); {
		case err != nil:
			return err
		case refused != nil:
			errs = append(errs, refused)
		}
	}
	for i, f := range now.Spec.Artifacts {
		if slices.ContainsFunc(before.Spec.Artifacts, func(o v1.Artifact) bool { return o.HostPath == f.HostPath }) {
			continue
		}
		if _, err := h.paths.Dir(f.HostPath); err != nil {
			errs = append(errs, field.Forbidden(field.NewPath("spec", "artifacts").Index(i).Child("hostPath"), err.Error()))
		}
	}
	for i, f := range now.Spec.SharedFolders {
		if slices.ContainsFunc(before.Spec.SharedFolders, func(o v1.SharedFolder) bool { return o.HostPath == f.HostPath }) {
			continue
		}
		if _, err := h.paths.Dir(f.HostPath); err != nil {
			errs = append(errs, field.Forbidden(field.NewPath("spec", "sharedFolders").Index(i).Child("hostPath"), err.Error()))
		}
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(v1.GroupVersion.WithKind("Sandbox").GroupKind(), a.Name, errs)
	}
	return nil
}

// imageWritten refuses a source that is seen at once not to become an image.
func (h *Hook) imageWritten(ctx context.Context, a apiserver.Attributes) error {
	var now, before v1.GoldenImage
	if err := decode(a, &now, &before); err != nil {
		return err
	}
	disk, artifact := now.Spec.Source.Disk, now.Spec.Source.OCI
	unchanged := reflect.DeepEqual(now.Spec.Source, before.Spec.Source) &&
		reflect.DeepEqual(now.Spec.Provision, before.Spec.Provision) && now.Spec.Provider == before.Spec.Provider
	invalid := func(err *field.Error) error {
		return apierrors.NewInvalid(v1.GroupVersion.WithKind("GoldenImage").GroupKind(), a.Name, field.ErrorList{err})
	}
	if artifact != nil && artifact.Layout != "" && !unchanged {
		if _, err := h.paths.Layout(artifact.Layout); err != nil {
			return invalid(field.Forbidden(field.NewPath("spec", "source", "oci", "layout"), err.Error()))
		}
	}
	if iso := now.Spec.Source.ISO; iso != nil && iso.Path != "" && !unchanged {
		if _, err := h.paths.File(iso.Path); err != nil {
			return invalid(field.Forbidden(field.NewPath("spec", "source", "iso", "path"), err.Error()))
		}
	}
	// What is behind an address is not looked at here: a server that is down or
	// slow must not keep manifests from being applied.
	if disk == nil || disk.Path == "" || unchanged {
		return nil
	}
	path := field.NewPath("spec", "source", "disk", "path")
	resolved, err := h.paths.File(disk.Path)
	if err != nil {
		return invalid(field.Forbidden(path, err.Error()))
	}
	p, err := h.providers.Get(now.Spec.Provider)
	if err != nil {
		return invalid(field.Forbidden(field.NewPath("spec", "provider"), text(err)))
	}
	spec := providers.ImageSpec{
		ImageRef: providers.ImageRef{UID: now.UID, Revision: providers.RevisionOf(now.Spec.Source, nil)},
		Name:     now.Name, Source: *now.Spec.Source.DeepCopy(),
		Machine: now.Spec.Machine,
	}
	spec.Source.Disk.Path = resolved
	switch err := h.check(ctx, p, spec); {
	case err == nil:
		return nil
	case providers.IsTerminal(err), errors.Is(err, providers.ErrNotFound):
		return invalid(field.Forbidden(path, text(err)))
	default:
		// What could not be found out now, the reconciler finds out: a
		// hypervisor that is down must not keep manifests from being applied.
		return ctx.Err()
	}
}

// text words a provider's error without the object, which is known here.
func text(err error) string {
	var e *providers.Error
	if errors.As(err, &e) && e.Err != nil {
		return e.Err.Error()
	}
	return err.Error()
}

// check asks the provider, unless it has passed the same source of the same
// unchanged file before: what follows a dry run need not read it again.
func (h *Hook) check(ctx context.Context, p providers.Provider, spec providers.ImageSpec) error {
	key, known := identify(p.Name(), spec)
	if known && h.checked.has(key) {
		return nil
	}
	err := p.CheckSource(ctx, spec)
	if after, still := identify(p.Name(), spec); err == nil && still && after == key {
		h.checked.add(key)
	}
	return err
}

// source identifies a source and the file that it names, as far as that can be
// told without reading it.
type source struct {
	provider      v1.ProviderName
	path, sha256  string
	format        v1.DiskFormat
	device, inode uint64
	size          int64
	modified      int64
	changed       int64
}

func identify(p v1.ProviderName, spec providers.ImageSpec) (source, bool) {
	d := spec.Source.Disk
	info, err := os.Lstat(d.Path)
	if err != nil {
		return source{}, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return source{}, false
	}
	return source{
		provider: p, path: d.Path, sha256: d.SHA256, format: d.Format,
		device: uint64(st.Dev), inode: st.Ino, size: st.Size,
		modified: info.ModTime().UnixNano(), changed: changed(st),
	}, true
}

// maxChecked bounds how many sources are remembered.
const maxChecked = 256

// checkedSources remembers sources that were found to be good. Its zero value
// is ready.
type checkedSources struct {
	mu   sync.Mutex
	good map[source]struct{}
}

func (c *checkedSources) has(s source) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.good[s]
	return ok
}

func (c *checkedSources) add(s source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.good == nil || len(c.good) >= maxChecked {
		c.good = make(map[source]struct{})
	}
	c.good[s] = struct{}{}
}

// decode reads the written object, and the one that it replaces if there is one.
func decode(a apiserver.Attributes, now, before metav1.Object) error {
	if err := fromUnstructured(a.Object, now); err != nil {
		return invalidObject(a, err)
	}
	if a.OldObject != nil {
		return fromUnstructured(a.OldObject, before)
	}
	return nil
}

func fromUnstructured(u *unstructured.Unstructured, into any) error {
	return runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, into)
}

func invalidObject(a apiserver.Attributes, err error) error {
	gk := schema.GroupKind{Group: a.Resource.Group, Kind: a.Object.GetKind()}
	return apierrors.NewInvalid(gk, a.Name, field.ErrorList{field.Invalid(field.NewPath("spec"), nil, err.Error())})
}
