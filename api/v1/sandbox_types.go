package v1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PowerState is the power state a user asks for.
// +kubebuilder:validation:Enum=Running;Stopped;Suspended
type PowerState string

// The power states that can be asked for.
const (
	// PowerRunning: the machine is on.
	PowerRunning PowerState = "Running"
	// PowerStopped: the machine is off; its disk is kept.
	PowerStopped PowerState = "Stopped"
	// PowerSuspended: memory and devices are saved to disk; the machine uses
	// no memory or CPU and goes on where it was when set to Running.
	PowerSuspended PowerState = "Suspended"
)

// NetworkMode is how a sandbox is connected. What a mode keeps apart, the
// hypervisor has to keep apart: libvirt does in every mode. VirtualBox cannot in
// modes hostonly and nat; a sandbox on these has the condition NetworkIsolated
// False there, with the reason NotEnforceable, whose message says what its guest
// reaches beyond what is said here.
// +kubebuilder:validation:Enum=none;intnet;hostonly;nat;bridged
type NetworkMode string

// The network modes, from the most to the least isolated.
const (
	// NetworkNone: no network interface at all.
	NetworkNone NetworkMode = "none"
	// NetworkIntnet: sandboxes of one namespace that name the same network
	// reach each other and nothing else; the host does not answer.
	NetworkIntnet NetworkMode = "intnet"
	// NetworkHostOnly: the host reaches the sandbox; the sandbox reaches
	// nothing of its own accord: no other sandbox, host address or network.
	NetworkHostOnly NetworkMode = "hostonly"
	// NetworkNAT: the sandbox reaches outside through the host's address, but
	// no service of the host and no other sandbox.
	NetworkNAT NetworkMode = "nat"
	// NetworkBridged: the sandbox is a full member of the host's own network.
	NetworkBridged NetworkMode = "bridged"
)

// Protocol of a port forward.
// +kubebuilder:validation:Enum=TCP;UDP
type Protocol string

// The protocols of a port forward.
const (
	ProtocolTCP Protocol = "TCP"
	ProtocolUDP Protocol = "UDP"
)

// RestartPolicy says what follows when a machine that should run powers off
// by itself.
// +kubebuilder:validation:Enum=Always;OnFailure;Never
type RestartPolicy string

// The restart policies.
const (
	// RestartAlways: start it again, whatever the reason.
	RestartAlways RestartPolicy = "Always"
	// RestartOnFailure: start it again if it crashed or was killed, not if the
	// guest shut down in good order.
	RestartOnFailure RestartPolicy = "OnFailure"
	// RestartNever: leave it off.
	RestartNever RestartPolicy = "Never"
)

// ExpiryAction says what happens to a sandbox whose time is up.
// +kubebuilder:validation:Enum=Delete;Stop
type ExpiryAction string

// The expiry actions.
const (
	ExpiryDelete ExpiryAction = "Delete"
	ExpiryStop   ExpiryAction = "Stop"
)

// ReadinessMode is how a running guest is found to be ready.
// +kubebuilder:validation:Enum=agent;ssh;tcp;none
type ReadinessMode string

// The readiness modes.
const (
	// ReadinessAgent: the guest agent answers.
	ReadinessAgent ReadinessMode = "agent"
	// ReadinessSSH: an ssh server greets on the port (default 22).
	ReadinessSSH ReadinessMode = "ssh"
	// ReadinessTCP: the port accepts a TCP connection.
	ReadinessTCP ReadinessMode = "tcp"
	// ReadinessNone: ready as soon as the machine is on.
	ReadinessNone ReadinessMode = "none"
)

// SnapshotGolden is the name, in spec.revertTo.snapshot, of the state a
// sandbox was cloned in.
const SnapshotGolden = "golden"

// SandboxSpec is what a user asks of a sandbox.
// +kubebuilder:validation:XValidation:rule="has(self.fromSnapshot) == has(oldSelf.fromSnapshot) && (!has(self.fromSnapshot) || self.fromSnapshot == oldSelf.fromSnapshot)",message="fromSnapshot is immutable: delete the sandbox and apply it again"
// +kubebuilder:validation:XValidation:rule="self.image == oldSelf.image",message="image is immutable: delete the sandbox and apply it again"
type SandboxSpec struct {
	// image names the GoldenImage to clone.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Image string `json:"image"`

	// fromSnapshot names a SandboxSnapshot of the namespace whose disk the
	// sandbox begins with, in place of the image's: it is a fork of the
	// snapshot's sandbox, with an identity of its own. image is the snapshot's.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	FromSnapshot string `json:"fromSnapshot,omitempty"`

	// powerState that the machine is kept in.
	// +optional
	// +kubebuilder:default=Running
	PowerState PowerState `json:"powerState,omitempty"`

	// cpus is the number of virtual CPUs. Unset means the image's, then the
	// daemon's default. A change takes effect at the next start.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=256
	CPUs int32 `json:"cpus,omitempty"`

	// memory of the machine, at least 64Mi. Unset means the image's, then the
	// daemon's default. A change takes effect at the next start.
	// +optional
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('64Mi')) >= 0",message="memory must be at least 64Mi"
	Memory *resource.Quantity `json:"memory,omitempty"`

	// diskSize of the machine's disk. Unset means the image's. It never
	// shrinks; growth takes effect at the next start.
	// +optional
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity(string(oldSelf))) >= 0",message="diskSize cannot shrink"
	DiskSize *resource.Quantity `json:"diskSize,omitempty"`

	// discardOnStop makes each start begin from the golden state: whatever a
	// run wrote to its disk is discarded.
	// +optional
	DiscardOnStop bool `json:"discardOnStop,omitempty"`

	// network says what the machine is connected to. A change to a running
	// machine restarts it, so that it never runs on a network that the
	// manifest does not name.
	// +optional
	// +kubebuilder:default={mode: none}
	Network Network `json:"network,omitempty"`

	// sharedFolders are host directories offered to the guest.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	SharedFolders []SharedFolder `json:"sharedFolders,omitempty"`

	// cloudInit is handed to the guest on a NoCloud seed.
	// +optional
	CloudInit CloudInit `json:"cloudInit,omitempty"`

	// lifecycle limits how long the sandbox lives.
	// +optional
	Lifecycle Lifecycle `json:"lifecycle,omitempty"`

	// restartPolicy says what follows when the machine powers off by itself.
	// +optional
	// +kubebuilder:default=Always
	RestartPolicy RestartPolicy `json:"restartPolicy,omitempty"`

	// readiness says when the guest counts as ready.
	// +optional
	// +kubebuilder:default={mode: agent}
	Readiness Readiness `json:"readiness,omitempty"`

	// revertTo puts the machine's disk back to a saved state, in place.
	// +optional
	RevertTo *RevertTo `json:"revertTo,omitempty"`

	// artifacts are files of the guest that are copied out when the machine
	// stops and before it is deleted. They are read from its disk, never by the
	// guest.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	Artifacts []Artifact `json:"artifacts,omitempty"`
}

// IsReadOnly tells whether the guest may not write to the folder.
func (f SharedFolder) IsReadOnly() bool { return f.ReadOnly == nil || *f.ReadOnly }

// GuestPath is where the folder is mounted in the guest.
func (f SharedFolder) GuestPath() string {
	if f.MountPath != "" {
		return f.MountPath
	}
	return "/mnt/" + f.Name
}

// Sandbox is one throw-away virtual machine, cloned from a GoldenImage.
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced,path=sandboxes,singular=sandbox,shortName=sbx,categories={sandboxd,all}
// +kubebuilder:subresource:status
// +kubebuilder:selectablefield:JSONPath=`.spec.image`
// +kubebuilder:selectablefield:JSONPath=`.spec.powerState`
// +kubebuilder:selectablefield:JSONPath=`.spec.network.mode`
// +kubebuilder:selectablefield:JSONPath=`.status.phase`
// +kubebuilder:selectablefield:JSONPath=`.status.provider`
// +kubebuilder:printcolumn:name="Image",type=string,JSONPath=`.spec.image`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Network",type=string,JSONPath=`.spec.network.mode`
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.status.addresses[0].ip`
// +kubebuilder:printcolumn:name="Isolated",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="NetworkIsolated")].status`
// +kubebuilder:printcolumn:name="Restarts",type=integer,priority=1,JSONPath=`.status.restarts`
// +kubebuilder:printcolumn:name="Provider",type=string,priority=1,JSONPath=`.status.provider`
// +kubebuilder:printcolumn:name="Since",type=date,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].lastTransitionTime`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name must be at most 63 characters: it is the default hostname"
type Sandbox struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what the user asks for.
	Spec SandboxSpec `json:"spec"`
	// status is what was observed.
	// +optional
	Status SandboxStatus `json:"status,omitempty"`
}

// SandboxList is a list of Sandboxes.
// +kubebuilder:object:root=true
type SandboxList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Sandbox `json:"items"`
}
