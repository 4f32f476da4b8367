package v1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// GoldenImageStatus is what was observed of a golden image.
type GoldenImageStatus struct {
	// phase summarizes the conditions, for printing only.
	// +optional
	Phase ImagePhase `json:"phase,omitempty"`
	// observedGeneration is the generation this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// conditions: Verified, Imported, Provisioned where a machine builds the
	// image, Ready, and Stalled while it is true.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// provider that holds the image.
	// +optional
	Provider ProviderName `json:"provider,omitempty"`
	// revision that new sandboxes are cloned from. It is derived from
	// spec.source and spec.provision alone, so that the same is never imported
	// twice.
	// +optional
	Revision string `json:"revision,omitempty"`
	// digest of the source file, as sha256:HEX.
	// +optional
	Digest string `json:"digest,omitempty"`
	// format of the source file, as given or detected.
	// +optional
	Format DiskFormat `json:"format,omitempty"`
	// virtualSize is the size of the disk as a guest sees it.
	// +optional
	VirtualSize *resource.Quantity `json:"virtualSize,omitempty"`
	// actualSize is the space the sealed image takes on the host.
	// +optional
	ActualSize *resource.Quantity `json:"actualSize,omitempty"`
	// clones is the number of sandboxes that use any revision of this image.
	// +optional
	Clones int32 `json:"clones,omitempty"`
	// revisions lists every revision that is held on the host, the current one
	// included. One that no sandbox uses any more is removed unless current, or
	// kept by spec.revisionHistoryLimit.
	// +optional
	// +listType=map
	// +listMapKey=revision
	Revisions []ImageRevision `json:"revisions,omitempty"`
	// origin is the sandbox whose disk the current revision was made of, or is
	// being made of, when spec.source.sandbox names one. It may be gone by now. A
	// sealed revision is kept whatever becomes of it, until the source names another.
	// +optional
	Origin *ImageOrigin `json:"origin,omitempty"`
	// build is the last build of a revision in a machine, under way or over.
	// Absent when no revision was ever built in one.
	// +optional
	Build *ImageBuild `json:"build,omitempty"`
}

// BuildPhase is how far a build has come.
type BuildPhase string

// The phases of a build, in order.
const (
	// BuildPreparing: the machine is being made. Nothing has run in it yet.
	BuildPreparing BuildPhase = "Preparing"
	// BuildInstalling: an installer runs; it ends by powering the machine off.
	BuildInstalling BuildPhase = "Installing"
	// BuildBooting: the guest is waited for.
	BuildBooting BuildPhase = "Booting"
	// BuildProvisioning: the steps run, and what must not be shared is removed.
	BuildProvisioning BuildPhase = "Provisioning"
	// BuildShuttingDown: all steps are done, the guest was asked to shut down.
	BuildShuttingDown BuildPhase = "ShuttingDown"
	// BuildSealing: the guest has shut down, its disk is being copied.
	BuildSealing BuildPhase = "Sealing"
	// BuildDone: the revision is sealed, or not wanted any more.
	BuildDone BuildPhase = "Done"
	// BuildFailed: it is not tried again until the spec changes, or somebody asks
	// for it by AnnotationRebuild.
	BuildFailed BuildPhase = "Failed"
)

// ImageBuild is a build of a revision in a throw-away machine.
type ImageBuild struct {
	// revision that is built.
	Revision string `json:"revision"`
	// generation of the spec that it is built from.
	Generation int64 `json:"generation"`
	// request is the value of the annotation that asked for it, if one did.
	// +optional
	Request string `json:"request,omitempty"`
	// phase it is in.
	Phase BuildPhase `json:"phase"`
	// since is when the phase began.
	Since metav1.Time `json:"since"`
	// machineID is the machine's ID on the hypervisor, while there may be one.
	// +optional
	MachineID string `json:"machineID,omitempty"`
	// reserved is what of the host's capacity is kept for the machine.
	// +optional
	Reserved *Reservation `json:"reserved,omitempty"`
	// attempt counts the machines whose guest was lost in the middle, from 1.
	// +optional
	Attempt int32 `json:"attempt,omitempty"`
	// startedAt is when the machine was started, from when the timeout counts.
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`
	// step that is under way, or that failed.
	// +optional
	Step string `json:"step,omitempty"`
	// exitCode of the script that failed.
	// +optional
	ExitCode *int32 `json:"exitCode,omitempty"`
	// reason of the failure: the Stalled condition's.
	// +optional
	Reason string `json:"reason,omitempty"`
	// message says what failed, or what the last attempt was lost to.
	// +optional
	Message string `json:"message,omitempty"`
}

// ImageOrigin is a Sandbox, or one of its snapshots, that became an image.
type ImageOrigin struct {
	// source as in the spec at that time.
	Source SandboxSource `json:"source"`
	// uid of the Sandbox.
	UID string `json:"uid"`
	// snapshotUID is that of its SandboxSnapshot, if the source names one.
	// +optional
	SnapshotUID string `json:"snapshotUID,omitempty"`
}

// ImageRevision is one sealed revision of an image.
type ImageRevision struct {
	// revision is the name of the revision.
	Revision string `json:"revision"`
	// digest of the source file it was made from, as sha256:HEX.
	// +optional
	Digest string `json:"digest,omitempty"`
	// source that it was made from, in a few words.
	// +optional
	Source string `json:"source,omitempty"`
	// virtualSize is the size of the disk as a guest sees it.
	// +optional
	VirtualSize *resource.Quantity `json:"virtualSize,omitempty"`
	// actualSize is the space it takes on the host.
	// +optional
	ActualSize *resource.Quantity `json:"actualSize,omitempty"`
	// sealedAt is when the revision was sealed.
	// +optional
	SealedAt *metav1.Time `json:"sealedAt,omitempty"`
	// clones is the number of sandboxes that use this revision.
	// +optional
	Clones int32 `json:"clones,omitempty"`
	// wanted: new sandboxes are cloned from it, or what they are cloned from was
	// built on it.
	// +optional
	Wanted bool `json:"wanted,omitempty"`
}

// ImagePhase summarizes an image's conditions for printing.
type ImagePhase string

// The phases of an image.
const (
	ImagePending     ImagePhase = "Pending"
	ImageImporting   ImagePhase = "Importing"
	ImageBuilding    ImagePhase = "Building"
	ImageReady       ImagePhase = "Ready"
	ImageFailed      ImagePhase = "Failed"
	ImageTerminating ImagePhase = "Terminating"
)
