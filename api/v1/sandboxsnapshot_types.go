package v1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SandboxSnapshotSpec is what a user asks of a snapshot.
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a snapshot's spec is immutable: take another one"
type SandboxSnapshotSpec struct {
	// sandbox of the namespace whose state is kept.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Sandbox string `json:"sandbox"`
	// memory keeps the memory and the devices' state of a running or suspended
	// machine besides its disk: a revert goes on where the guest was. Without
	// it, a revert starts the guest from its disk.
	// +optional
	Memory bool `json:"memory,omitempty"`
}

// SandboxSnapshotStatus is what was observed of a snapshot.
type SandboxSnapshotStatus struct {
	// phase summarizes the conditions, for printing only.
	// +optional
	Phase SnapshotPhase `json:"phase,omitempty"`
	// observedGeneration is the generation this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// conditions: Ready, and Stalled while it is true.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// provider that holds the snapshot.
	// +optional
	Provider ProviderName `json:"provider,omitempty"`
	// machineID of the machine that it was taken of: the Sandbox's UID.
	// +optional
	MachineID string `json:"machineID,omitempty"`
	// image and imageRevision of the machine.
	// +optional
	Image string `json:"image,omitempty"`
	// +optional
	ImageRevision string `json:"imageRevision,omitempty"`
	// takenAt is when the state was taken.
	// +optional
	TakenAt *metav1.Time `json:"takenAt,omitempty"`
	// frozen tells whether the guest's file systems were held still by its agent
	// meanwhile, or the machine was off; what a guest had not written yet is
	// missing otherwise.
	// +optional
	Frozen bool `json:"frozen,omitempty"`
	// size of what the snapshot takes on the host.
	// +optional
	Size *resource.Quantity `json:"size,omitempty"`
	// forks is the number of sandboxes that began from the snapshot.
	// +optional
	Forks int32 `json:"forks,omitempty"`
}

// SnapshotPhase summarizes a snapshot's conditions for printing.
type SnapshotPhase string

// The phases of a snapshot.
const (
	SnapshotPending     SnapshotPhase = "Pending"
	SnapshotReady       SnapshotPhase = "Ready"
	SnapshotFailed      SnapshotPhase = "Failed"
	SnapshotTerminating SnapshotPhase = "Terminating"
)

// SandboxSnapshot is the state of a Sandbox at one moment: its disk and, if asked
// for, its memory. It is kept until it is deleted, or its Sandbox is.
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced,shortName=snap,categories={sandboxd,all}
// +kubebuilder:subresource:status
// +kubebuilder:selectablefield:JSONPath=`.spec.sandbox`
// +kubebuilder:selectablefield:JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Sandbox",type=string,JSONPath=`.spec.sandbox`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Memory",type=boolean,JSONPath=`.spec.memory`
// +kubebuilder:printcolumn:name="Size",type=string,JSONPath=`.status.size`
// +kubebuilder:printcolumn:name="Forks",type=integer,JSONPath=`.status.forks`
// +kubebuilder:printcolumn:name="Taken",type=date,JSONPath=`.status.takenAt`
// +kubebuilder:printcolumn:name="Since",type=date,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].lastTransitionTime`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name != 'golden'",message="the name golden stands for the state a sandbox was cloned in"
type SandboxSnapshot struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what the user asks for.
	Spec SandboxSnapshotSpec `json:"spec"`
	// status is what was observed.
	// +optional
	Status SandboxSnapshotStatus `json:"status,omitempty"`
}

// SandboxSnapshotList is a list of SandboxSnapshots.
// +kubebuilder:object:root=true
type SandboxSnapshotList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SandboxSnapshot `json:"items"`
}
