package sandbox

import (
	"errors"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/hostpath"
	"sandboxd.dev/sandboxd/providers"
)

// Defaults of the host, for what neither a sandbox nor its image says.
type Defaults struct {
	CPUs   int32
	Memory resource.Quantity
}

// desire works out what the spec asks for, given the machine that is there.
// Whatever the error, v.desired says which network the spec names.
func (r *Reconciler) desire(v *view) (providers.MachineSpec, error) {
	v.desired = desired{
		Power:      powerState(v.sbx, v.now),
		Restart:    v.sbx.Spec.RestartPolicy,
		ImageReady: v.img != nil && imageReady(v.img, v.sbx),
	}
	if v.img == nil {
		if v.machine != nil {
			// Without the image the defaults are unknown: keep the machine as it is.
			v.desired.Hashes = v.machine.Hashes
		}
		return providers.MachineSpec{}, nil
	}
	revision := v.img.Status.Revision
	if v.machine != nil {
		revision = v.machine.ImageRevision
	}
	from, err := v.forkOf()
	switch {
	case err != nil || v.sbx.Spec.FromSnapshot == "":
	case from == nil:
		// Without the snapshot there is nothing to make it of: keep it as it is.
		v.desired.ImageReady = false
		if v.machine != nil {
			v.desired.Hashes = v.machine.Hashes
		}
		return providers.MachineSpec{}, nil
	default:
		// The snapshot's sandbox holds the revision, also when a newer one is not ready.
		v.desired.ImageReady = outlives(v.img, v.sbx) && v.origin.usable()
		revision = v.origin.snap.Status.ImageRevision
	}
	spec, specErr := machineSpec(v.sbx, v.img, revision, r.o.Defaults, r.o.HostPaths.Dir)
	spec.Snapshot = from
	own := r.authorize(&spec, v.img)
	v.desired.Hashes, v.desired.Known = spec.Hashes(), true
	revertErr := v.desireRevert()
	for _, e := range []error{specErr, revertErr, own, r.artifactPaths(v)} {
		if err == nil {
			err = e
		}
	}
	return spec, err
}

// authorize lets us in to a guest that has no agent, by its seed.
func (r *Reconciler) authorize(spec *providers.MachineSpec, img *v1.GoldenImage) error {
	if r.o.SSH == nil || !agentless(img) {
		return nil
	}
	key, err := r.o.SSH.AuthorizedKey()
	if err != nil {
		return err
	}
	spec.Seed.SSHAuthorizedKeys = append([]string{key}, spec.Seed.SSHAuthorizedKeys...)
	return nil
}

// machineSpec fills in what a sandbox leaves open. resolve checks a shared
// folder's path and returns the one to use.
func machineSpec(sbx *v1.Sandbox, img *v1.GoldenImage, revision string, d Defaults, resolve func(string) (string, error)) (providers.MachineSpec, error) {
	spec := providers.MachineSpec{
		ID:          sbx.UID,
		Namespace:   sbx.Namespace,
		Name:        sbx.Name,
		Image:       providers.ImageRef{UID: img.UID, Revision: revision},
		CPUs:        int(firstSet(sbx.Spec.CPUs, img.Spec.Machine.CPUs, d.CPUs)),
		MemoryBytes: d.Memory.Value(),
		Firmware:    firstSet(img.Spec.Machine.Firmware, v1.FirmwareBIOS),
		OSType:      img.Spec.Machine.OSType,
		Network:     *sbx.Spec.Network.DeepCopy(),
		Seed: providers.Seed{
			Hostname:          firstSet(sbx.Spec.CloudInit.Hostname, sbx.Name),
			User:              guestUser(img),
			SSHAuthorizedKeys: slices.Clone(sbx.Spec.CloudInit.SSHAuthorizedKeys),
			UserData:          sbx.Spec.CloudInit.UserData,
			NetworkConfig:     sbx.Spec.CloudInit.NetworkConfig,
		},
		DiscardOnStop: sbx.Spec.DiscardOnStop,
	}
	if q := firstQuantity(sbx.Spec.Memory, img.Spec.Machine.Memory); q != nil {
		spec.MemoryBytes = q.Value()
	}
	if q := sbx.Spec.DiskSize; q != nil {
		spec.DiskBytes = q.Value()
	}
	spec.Network.Mode = firstSet(spec.Network.Mode, v1.NetworkNone)
	if m := spec.Network.Mode; m == v1.NetworkIntnet || m == v1.NetworkHostOnly {
		spec.Network.Name = firstSet(spec.Network.Name, "default")
	}
	for _, f := range sbx.Spec.SharedFolders {
		path, err := resolve(f.HostPath)
		if err != nil {
			return spec, hostPathError("shared folder "+f.Name, err)
		}
		f.HostPath = path
		spec.SharedFolders = append(spec.SharedFolders, f)
	}
	return spec, nil
}

// artifactPaths refuses places that the host does not allow. What is missing on the host
// is in the way of a machine that is not made yet, and of no other: it may come back
// until something is copied there.
func (r *Reconciler) artifactPaths(v *view) error {
	for _, a := range v.sbx.Spec.Artifacts {
		_, err := r.o.HostPaths.Dir(a.HostPath)
		if err != nil && (v.machine == nil || errors.Is(err, hostpath.ErrForbidden)) {
			return hostPathError("artifact "+a.Name, err)
		}
	}
	return nil
}

// hostPathError gives a refused path a kind: whatever is wrong with it, somebody has to
// change the manifest or the host.
func hostPathError(object string, err error) error {
	e := providers.Errorf(providers.ErrInvalid, object, "%w", err)
	switch {
	case errors.Is(err, hostpath.ErrForbidden):
		return e.WithReason(v1.ReasonHostPathForbidden)
	case errors.Is(err, hostpath.ErrNotFound):
		return e.WithReason(v1.ReasonHostPathNotFound)
	default:
		return e
	}
}

// guestConfig is what is set up inside the running guest.
func guestConfig(sbx *v1.Sandbox, img *v1.GoldenImage) providers.GuestConfig {
	return providers.GuestConfig{
		User:              guestUser(img),
		SSHAuthorizedKeys: sbx.Spec.CloudInit.SSHAuthorizedKeys,
		Mounts:            sbx.Spec.SharedFolders,
	}
}

func guestUser(img *v1.GoldenImage) string { return firstSet(img.Spec.Guest.User, "root") }

// imageReady tells whether a sandbox can be cloned from the image.
func imageReady(img *v1.GoldenImage, sbx *v1.Sandbox) bool {
	sealed := v1.ConditionReady
	if !img.DeletionTimestamp.IsZero() {
		sealed = v1.ConditionImported
	}
	return outlives(img, sbx) && img.Status.Revision != "" && meta.IsStatusConditionTrue(img.Status.Conditions, sealed)
}

// outlives tells whether the image stays as long as the sandbox uses it, as it does even
// while it is being deleted for a sandbox that was there before. One that was made of it
// was, whatever a clock says that was set back in between.
func outlives(img *v1.GoldenImage, sbx *v1.Sandbox) bool {
	made := sbx.Status.MachineID != "" || sbx.Status.ImageRevision != ""
	return img.DeletionTimestamp.IsZero() || made || !img.DeletionTimestamp.Before(&sbx.CreationTimestamp)
}

func firstSet[T comparable](values ...T) T {
	var zero T
	for _, v := range values {
		if v != zero {
			return v
		}
	}
	return zero
}

func firstQuantity(qs ...*resource.Quantity) *resource.Quantity {
	for _, q := range qs {
		if q != nil {
			return q
		}
	}
	return nil
}
