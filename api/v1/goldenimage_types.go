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

// GoldenImage is a sealed disk that sandboxes are cloned from. Once sealed it
// never changes in place.
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=gi,categories=sandboxd
// +kubebuilder:subresource:status
// +kubebuilder:selectablefield:JSONPath=`.spec.provider`
// +kubebuilder:selectablefield:JSONPath=`.status.phase`
// +kubebuilder:selectablefield:JSONPath=`.status.provider`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Provider",type=string,JSONPath=`.status.provider`
// +kubebuilder:printcolumn:name="Size",type=string,JSONPath=`.status.virtualSize`
// +kubebuilder:printcolumn:name="Clones",type=integer,JSONPath=`.status.clones`
// +kubebuilder:printcolumn:name="Revision",type=string,priority=1,JSONPath=`.status.revision`
// +kubebuilder:printcolumn:name="Digest",type=string,priority=1,JSONPath=`.status.digest`
// +kubebuilder:printcolumn:name="Since",type=date,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].lastTransitionTime`
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
