package v1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SandboxStatus is what was observed of a sandbox.
type SandboxStatus struct {
	// phase summarizes the conditions, for printing only.
	// +optional
	Phase SandboxPhase `json:"phase,omitempty"`
	// observedGeneration is the generation this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// conditions: ImageReady, Admitted, Provisioned, NetworkIsolated, PoweredOn,
	// GuestReady, Ready; and Drifted and Stalled while they are true.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// provider that runs the machine.
	// +optional
	Provider ProviderName `json:"provider,omitempty"`
	// reserved is what of the host's capacity is kept for the machine.
	// +optional
	Reserved *Reservation `json:"reserved,omitempty"`
	// machineID is the hypervisor's UUID of the machine: the object's own UID.
	// +optional
	MachineID string `json:"machineID,omitempty"`
	// imageRevision that the machine was cloned from.
	// +optional
	ImageRevision string `json:"imageRevision,omitempty"`
	// accelerator the machine runs with: kvm, tcg (software emulation), or the
	// hypervisor's own word.
	// +optional
	Accelerator string `json:"accelerator,omitempty"`
	// addresses of the guest, as last seen.
	// +optional
	// +listType=map
	// +listMapKey=ip
	Addresses []GuestAddress `json:"addresses,omitempty"`
	// portForwards as resolved: every hostPort is a real one.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	PortForwards []PortForward `json:"portForwards,omitempty"`
	// startedAt is when the machine was last seen to have been started.
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`
	// stoppingSince is when a graceful stop was asked for that has not ended.
	// +optional
	StoppingSince *metav1.Time `json:"stoppingSince,omitempty"`
	// lastUsedAt is when the sandbox was last used, if lifecycle.idleTimeout is
	// set: a command, a copy, a console that is read, a connection through a port
	// forward (libvirt), or a change of the spec. A use under way counts whenever
	// the sandbox is looked at.
	// +optional
	LastUsedAt *metav1.Time `json:"lastUsedAt,omitempty"`
	// expiresAt is when the sandbox's time is up.
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`
	// restarts counts starts after the machine had powered off by itself.
	// +optional
	Restarts int32 `json:"restarts,omitempty"`
	// repairs counts how often in a row, ten minutes apart at the most, the machine
	// was powered off because others had changed what its isolation rests on.
	// +optional
	Repairs int32 `json:"repairs,omitempty"`
	// repairedAt is when it was last powered off for that.
	// +optional
	RepairedAt *metav1.Time `json:"repairedAt,omitempty"`
	// revert is the last revert that was carried out.
	// +optional
	Revert *RevertTo `json:"revert,omitempty"`
	// guestConfigHash names the guest settings (ssh keys, mounts) last applied
	// inside the running guest. It is "unknown" while they are applied, after that
	// failed and when the guest may have started since.
	// +optional
	GuestConfigHash string `json:"guestConfigHash,omitempty"`
	// nextTryAt is when what failed is tried again, if nothing changes before.
	// +optional
	NextTryAt *metav1.Time `json:"nextTryAt,omitempty"`
	// artifacts as last copied out.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	Artifacts []ArtifactStatus `json:"artifacts,omitempty"`
}

// Reservation is what of the host's capacity is kept for a machine.
type Reservation struct {
	// memory while the machine runs or is to run.
	// +optional
	Memory *resource.Quantity `json:"memory,omitempty"`
	// cpus while the machine runs or is to run.
	// +optional
	CPUs int32 `json:"cpus,omitempty"`
	// disk as the guest sees it, and room for the memory of a suspended machine.
	// +optional
	Disk *resource.Quantity `json:"disk,omitempty"`
}

// ArtifactStatus is what became of an artifact.
type ArtifactStatus struct {
	// name of the artifact.
	Name string `json:"name"`
	// path of the file on the host.
	// +optional
	Path string `json:"path,omitempty"`
	// size of the file, in bytes.
	// +optional
	Size int64 `json:"size,omitempty"`
	// digest of the file, as sha256:HEX.
	// +optional
	Digest string `json:"digest,omitempty"`
	// collectedAt is when it was copied out.
	// +optional
	CollectedAt *metav1.Time `json:"collectedAt,omitempty"`
	// message says why it was not, or why it waits.
	// +optional
	Message string `json:"message,omitempty"`
	// due: the machine has run since, and it is copied out when it stops.
	// +optional
	Due bool `json:"due,omitempty"`
	// waitingSince is when something on the host first kept it from being copied
	// out.
	// +optional
	WaitingSince *metav1.Time `json:"waitingSince,omitempty"`
}

// AddressSource is where an address was learned.
// +kubebuilder:validation:Enum=agent;lease;neighbour;property
type AddressSource string

// The sources of a guest's address.
const (
	AddressFromAgent     AddressSource = "agent"
	AddressFromLease     AddressSource = "lease"
	AddressFromNeighbour AddressSource = "neighbour"
	AddressFromProperty  AddressSource = "property"
)

// GuestAddress is an address of the guest. What a guest says of itself
// (source agent or property) is its own claim.
type GuestAddress struct {
	// ip address.
	IP string `json:"ip"`
	// source it was learned from.
	// +optional
	Source AddressSource `json:"source,omitempty"`
}

// SandboxPhase summarizes a sandbox's conditions for printing.
type SandboxPhase string

// The phases of a sandbox.
const (
	SandboxPending     SandboxPhase = "Pending"
	SandboxCreating    SandboxPhase = "Creating"
	SandboxStarting    SandboxPhase = "Starting"
	SandboxRunning     SandboxPhase = "Running"
	SandboxStopping    SandboxPhase = "Stopping"
	SandboxStopped     SandboxPhase = "Stopped"
	SandboxSuspended   SandboxPhase = "Suspended"
	SandboxFailed      SandboxPhase = "Failed"
	SandboxTerminating SandboxPhase = "Terminating"
)
