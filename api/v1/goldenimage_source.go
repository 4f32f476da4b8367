package v1

import "k8s.io/apimachinery/pkg/api/resource"

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
