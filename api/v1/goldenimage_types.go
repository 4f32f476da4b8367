package v1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ProviderName names a kind of hypervisor.
// +kubebuilder:validation:Enum=kvm;virtualbox
type ProviderName string

// The providers.
const (
	// ProviderKVM is QEMU driven through libvirt, accelerated by KVM where the
	// host can and by TCG (software emulation) where it cannot.
	ProviderKVM ProviderName = "kvm"
	// ProviderVirtualBox is VirtualBox driven through VBoxManage.
	ProviderVirtualBox ProviderName = "virtualbox"
)

// DiskFormat is the format of a disk image file.
// +kubebuilder:validation:Enum=qcow2;raw;vdi;vmdk;vhd;vhdx;ova
type DiskFormat string

// The disk formats that a source may have.
const (
	DiskFormatQCOW2 DiskFormat = "qcow2"
	DiskFormatRaw   DiskFormat = "raw"
	DiskFormatVDI   DiskFormat = "vdi"
	DiskFormatVMDK  DiskFormat = "vmdk"
	DiskFormatVHD   DiskFormat = "vhd"
	DiskFormatVHDX  DiskFormat = "vhdx"
	// DiskFormatOVA is an archive of a machine; its one disk is used.
	DiskFormatOVA DiskFormat = "ova"
)

// Firmware is the kind of firmware a machine boots with.
// +kubebuilder:validation:Enum=bios;efi
type Firmware string

// The kinds of firmware.
const (
	FirmwareBIOS Firmware = "bios"
	FirmwareEFI  Firmware = "efi"
)

// GuestAgent says whether a guest carries an agent that sandboxd can talk to.
// +kubebuilder:validation:Enum=Installed;None
type GuestAgent string

// The states of a guest agent in an image.
const (
	// GuestAgentInstalled: qemu-guest-agent (kvm) or the Guest Additions
	// (virtualbox) start with the guest.
	GuestAgentInstalled GuestAgent = "Installed"
	// GuestAgentNone: the guest has no agent. Commands, file copies, ssh keys and
	// mounts go by the ssh server that it runs, and its sandboxes need another
	// readiness check than the agent's.
	GuestAgentNone GuestAgent = "None"
)

// GoldenImageSpec is what a user asks of a golden image.
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.provider) || (has(self.provider) && self.provider == oldSelf.provider)",message="provider is immutable: make another GoldenImage for another provider"
type GoldenImageSpec struct {
	// provider is the hypervisor that runs machines of this image. Unset means
	// the daemon's default provider.
	// +optional
	Provider ProviderName `json:"provider,omitempty"`

	// source is where the disk comes from. A changed source makes a new
	// revision beside the old one; sandboxes made before keep theirs.
	Source ImageSource `json:"source"`

	// machine holds hardware defaults for the sandboxes of this image.
	// +optional
	Machine MachineDefaults `json:"machine,omitempty"`

	// guest says how to reach inside a running guest of this image.
	// +optional
	// +kubebuilder:default={}
	Guest GuestAccess `json:"guest,omitempty"`

	// provision lists scripts and files that are run and written once, in order,
	// in a throw-away machine of the source before the image is sealed.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	Provision []ProvisionStep `json:"provision,omitempty"`

	// build describes the throw-away machine that installs or provisions the
	// image.
	// +optional
	// +kubebuilder:default={}
	Build BuildMachine `json:"build,omitempty"`

	// revisionHistoryLimit is how many former revisions are kept that no sandbox
	// and no other image uses, the youngest ones.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	RevisionHistoryLimit int32 `json:"revisionHistoryLimit,omitempty"`
}

// BuildMachine is the throw-away machine that installs or provisions an image.
type BuildMachine struct {
	// network it is connected to: none, or nat for scripts and installers that
	// download.
	// +optional
	// +kubebuilder:default=none
	// +kubebuilder:validation:XValidation:rule="self == 'none' || self == 'nat'",message="network must be none or nat"
	Network NetworkMode `json:"network,omitempty"`
	// timeout of the whole build, counted from the start of its machine. Unset
	// means one hour.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s')",message="timeout must be at least 1s"
	Timeout *metav1.Duration `json:"timeout,omitempty"`
}

// ImageSource is where an image comes from. Exactly one member is set.
// +kubebuilder:validation:XValidation:rule="[has(self.disk), has(self.oci), has(self.machine), has(self.iso), has(self.sandbox)].filter(x, x).size() == 1",message="exactly one of disk, oci, machine, iso and sandbox must be set"
type ImageSource struct {
	// disk is a disk image file.
	// +optional
	Disk *DiskSource `json:"disk,omitempty"`
	// oci is a disk image kept as an OCI artifact.
	// +optional
	OCI *OCISource `json:"oci,omitempty"`
	// machine adopts an existing machine of the hypervisor.
	// +optional
	Machine *MachineSource `json:"machine,omitempty"`
	// iso installs an operating system from its installer, unattended.
	// +optional
	ISO *ISOSource `json:"iso,omitempty"`
	// sandbox promotes the disk of an existing Sandbox.
	// +optional
	Sandbox *SandboxSource `json:"sandbox,omitempty"`
}

// DiskSource is a disk image file on the host or behind a URL.
// +kubebuilder:validation:XValidation:rule="has(self.path) != has(self.url)",message="exactly one of path and url must be set"
// +kubebuilder:validation:XValidation:rule="!has(self.sha256) || !has(self.checksumURL)",message="at most one of sha256 and checksumURL may be set"
// +kubebuilder:validation:XValidation:rule="!has(self.checksumURL) || has(self.url)",message="checksumURL is allowed with url only"
type DiskSource struct {
	// path is a file on the host, below one of the daemon's allowed roots.
	// A relative path is looked up in the daemon's base image directory.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Path string `json:"path,omitempty"`
	// url is an http or https address.
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:Pattern=`^https?://[^/\s]+\S*$`
	URL string `json:"url,omitempty"`
	// format of the file. Unset means: detect it. A file that is not of the
	// stated format is refused.
	// +optional
	Format DiskFormat `json:"format,omitempty"`
	// sha256 is the digest the file must have, in lower-case hexadecimal. Without
	// it and checksumURL the first digest seen is recorded in the status and
	// trusted from then on.
	// +optional
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	SHA256 string `json:"sha256,omitempty"`
	// checksumURL is the address of a file of digests, such as SHA256SUMS, that
	// names the file of url.
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:Pattern=`^https?://[^/\s]+\S*$`
	ChecksumURL string `json:"checksumURL,omitempty"`
	// maxSize the file may have; unset means the daemon's limit.
	// +optional
	MaxSize *resource.Quantity `json:"maxSize,omitempty"`
}

// OCISource is a disk image kept as an OCI artifact whose one layer is the disk.
// +kubebuilder:validation:XValidation:rule="has(self.reference) != has(self.layout)",message="exactly one of reference and layout must be set"
type OCISource struct {
	// reference of the artifact in a registry, as HOST[:PORT]/NAME:TAG or
	// HOST[:PORT]/NAME@sha256:HEX.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$`
	Reference string `json:"reference,omitempty"`
	// layout is a folder of the host in the OCI image layout, below one of the
	// daemon's allowed roots. A relative path is looked up in the daemon's base
	// image directory.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Layout string `json:"layout,omitempty"`
	// tag of the artifact in the layout. Unset means its only one.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_][A-Za-z0-9._-]*$`
	Tag string `json:"tag,omitempty"`
	// digest the artifact's manifest must have, as sha256:HEX.
	// +optional
	// +kubebuilder:validation:Pattern=`^sha256:[0-9a-f]{64}$`
	Digest string `json:"digest,omitempty"`
	// plainHTTP speaks http in place of https to the registry.
	// +optional
	PlainHTTP bool `json:"plainHTTP,omitempty"`
}

// MachineSource is an existing machine of the hypervisor, adopted as it is.
type MachineSource struct {
	// name or UUID of the machine.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	Name string `json:"name"`
	// snapshot to clone from; taken when absent and the machine is powered off.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	Snapshot string `json:"snapshot,omitempty"`
}

// ISOSource is an installer image that is run unattended.
// +kubebuilder:validation:XValidation:rule="has(self.path) != has(self.url)",message="exactly one of path and url must be set"
type ISOSource struct {
	// path is a file on the host, below one of the daemon's allowed roots.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Path string `json:"path,omitempty"`
	// url is an http or https address.
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:Pattern=`^https?://[^/\s]+\S*$`
	URL string `json:"url,omitempty"`
	// sha256 is the digest the file must have, in lower-case hexadecimal.
	// +optional
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	SHA256 string `json:"sha256,omitempty"`
	// diskSize of the disk to install on.
	// +optional
	DiskSize *resource.Quantity `json:"diskSize,omitempty"`
	// unattended answers the installer's questions.
	Unattended UnattendedInstall `json:"unattended"`
}

// UnattendedInstall answers an installer's questions.
type UnattendedInstall struct {
	// user to create.
	// +kubebuilder:validation:Pattern=`^[a-z_][a-z0-9_-]{0,31}$`
	User string `json:"user"`
	// passwordSecretRef names the Secret whose key `password` is the user's.
	PasswordSecretRef SecretReference `json:"passwordSecretRef"`
	// hostname of the installed system.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	Hostname string `json:"hostname,omitempty"`
	// locale of the installed system, such as en_US.
	// +optional
	// +kubebuilder:validation:Pattern=`^[a-z]{2,3}_[A-Z]{2}(\.[A-Za-z0-9-]+)?$`
	Locale string `json:"locale,omitempty"`
	// packages to install besides the base system.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=128
	// +kubebuilder:validation:items:Pattern=`^[A-Za-z0-9][A-Za-z0-9+._:-]*$`
	Packages []string `json:"packages,omitempty"`
}

// SandboxSource names the Sandbox whose disk becomes an image. Its disk is read
// while it is off, or from one of its snapshots at any time.
type SandboxSource struct {
	// namespace of the Sandbox.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// name of the Sandbox.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// snapshot of the Sandbox to read; unset means its disk as it is.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Snapshot string `json:"snapshot,omitempty"`
}

// SecretReference names a Secret.
type SecretReference struct {
	// namespace of the Secret.
	// +optional
	// +kubebuilder:default=default
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
	// name of the Secret.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// MachineDefaults are hardware defaults; a Sandbox may override cpus and memory.
type MachineDefaults struct {
	// cpus is the number of virtual CPUs.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=256
	CPUs int32 `json:"cpus,omitempty"`
	// memory of the machine, at least 64Mi.
	// +optional
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('64Mi')) >= 0",message="memory must be at least 64Mi"
	Memory *resource.Quantity `json:"memory,omitempty"`
	// firmware the image boots with.
	// +optional
	// +kubebuilder:default=bios
	Firmware Firmware `json:"firmware,omitempty"`
	// osType hints at the operating system, in VirtualBox's words (such as
	// Ubuntu_64); other providers record it only.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_.-]+$`
	OSType string `json:"osType,omitempty"`
}

// GuestAccess says how to reach inside a running guest.
type GuestAccess struct {
	// agent says whether the image carries a guest agent. Without one its
	// sandboxes are reached by ssh, on a network on which the host reaches port
	// 22 (readiness.port with readiness.mode ssh), and need another
	// readiness.mode than agent. The daemon's key is on the cloud-init seed.
	// +optional
	// +kubebuilder:default=Installed
	Agent GuestAgent `json:"agent,omitempty"`
	// user that commands run as and whose authorized ssh keys are kept.
	// +optional
	// +kubebuilder:default=root
	// +kubebuilder:validation:Pattern=`^[a-z_][a-z0-9_-]{0,31}$`
	User string `json:"user,omitempty"`
	// passwordSecretRef names the Secret whose key `password` is the user's,
	// for providers whose guest access needs one (virtualbox), and for ssh into
	// guests that do not take the daemon's key.
	// +optional
	PasswordSecretRef *SecretReference `json:"passwordSecretRef,omitempty"`
}

// ProvisionStep is one script or one file, run or written before sealing.
// +kubebuilder:validation:XValidation:rule="has(self.script) != has(self.file)",message="exactly one of script and file must be set"
type ProvisionStep struct {
	// name of the step, unique in the list.
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// script run by the guest's /bin/sh, or by its own #! line.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=262144
	Script string `json:"script,omitempty"`
	// file written into the guest.
	// +optional
	File *ProvisionFile `json:"file,omitempty"`
}

// ProvisionFile is a file written into a guest before sealing.
type ProvisionFile struct {
	// path in the guest. Its directory exists.
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:Pattern=`^/[^\x00-\x1f]*[^/\x00-\x1f]$`
	Path string `json:"path"`
	// content of the file.
	// +kubebuilder:validation:MaxLength=262144
	Content string `json:"content"`
	// mode holds the permission bits, in octal.
	// +optional
	// +kubebuilder:default="0644"
	// +kubebuilder:validation:Pattern=`^0?[0-7]{3}$`
	Mode string `json:"mode,omitempty"`
}

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
	// origin is the sandbox whose disk the current revision was made of, when
	// spec.source.sandbox names one. It may be gone by now. The revision is kept
	// whatever becomes of it, until the source names another.
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

// GoldenImage is a sealed disk that sandboxes are cloned from. Once sealed it
// never changes in place.
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=gi,categories=sandboxd
// +kubebuilder:subresource:status
// +kubebuilder:selectablefield:JSONPath=`.spec.provider`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Provider",type=string,JSONPath=`.status.provider`
// +kubebuilder:printcolumn:name="Size",type=string,JSONPath=`.status.virtualSize`
// +kubebuilder:printcolumn:name="Clones",type=integer,JSONPath=`.status.clones`
// +kubebuilder:printcolumn:name="Revision",type=string,priority=1,JSONPath=`.status.revision`
// +kubebuilder:printcolumn:name="Digest",type=string,priority=1,JSONPath=`.status.digest`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type GoldenImage struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what the user asks for.
	Spec GoldenImageSpec `json:"spec"`
	// status is what was observed.
	// +optional
	Status GoldenImageStatus `json:"status,omitempty"`
}

// GoldenImageList is a list of GoldenImages.
// +kubebuilder:object:root=true
type GoldenImageList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []GoldenImage `json:"items"`
}
