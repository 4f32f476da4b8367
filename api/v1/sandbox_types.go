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

// Artifact is a file or directory of the guest that is copied out.
type Artifact struct {
	// name of the artifact, unique in the list.
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// path in the guest.
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:Pattern=`^/`
	Path string `json:"path"`
	// hostPath is an existing directory below one of the daemon's allowed roots.
	// The artifact is written there as NAMESPACE.SANDBOX.NAME.tar.
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:Pattern=`^/`
	HostPath string `json:"hostPath"`
	// maxSize of the artifact; a greater one is not copied. Unset means 1Gi.
	// +optional
	MaxSize *resource.Quantity `json:"maxSize,omitempty"`
}

// Network is what a sandbox is connected to.
// +kubebuilder:validation:XValidation:rule="(has(self.bridge) && size(self.bridge) > 0) == (self.mode == 'bridged')",message="bridge is required with mode bridged and not allowed with any other"
// +kubebuilder:validation:XValidation:rule="!has(self.name) || size(self.name) == 0 || self.mode == 'intnet' || self.mode == 'hostonly'",message="name is allowed with mode intnet or hostonly only"
// +kubebuilder:validation:XValidation:rule="!has(self.portForwards) || size(self.portForwards) == 0 || self.mode == 'nat'",message="portForwards are allowed with mode nat only"
type Network struct {
	// mode of the connection. Whether the hypervisor keeps the guest from all
	// that the mode rules out, the condition NetworkIsolated says.
	// +optional
	// +kubebuilder:default=none
	Mode NetworkMode `json:"mode,omitempty"`
	// name of the internal or host-only network, within the namespace. Unset
	// means "default".
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`
	// bridge or network interface of the host, for mode bridged.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9][A-Za-z0-9_.-]*$`
	Bridge string `json:"bridge,omitempty"`
	// portForwards open host ports that lead into the guest, for mode nat.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	PortForwards []PortForward `json:"portForwards,omitempty"`
}

// PortForward opens a port of the host that leads to a port of the guest.
type PortForward struct {
	// name of the forward, unique in the list.
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// protocol that is forwarded.
	// +optional
	// +kubebuilder:default=TCP
	Protocol Protocol `json:"protocol,omitempty"`
	// hostAddress to listen on.
	// +optional
	// +kubebuilder:default="127.0.0.1"
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="hostAddress must be an IP address"
	HostAddress string `json:"hostAddress,omitempty"`
	// hostPort to listen on; 0 means a free one, found in status.portForwards.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	HostPort int32 `json:"hostPort,omitempty"`
	// guestPort to connect to.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	GuestPort int32 `json:"guestPort"`
}

// SharedFolder offers a directory of the host to the guest.
type SharedFolder struct {
	// name of the folder, unique in the list.
	// +kubebuilder:validation:MaxLength=31
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// hostPath is an existing directory below one of the daemon's allowed roots.
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:Pattern=`^/`
	HostPath string `json:"hostPath"`
	// readOnly, enforced on the host's side. True unless set to false.
	// +optional
	// +kubebuilder:default=true
	ReadOnly *bool `json:"readOnly,omitempty"`
	// mountPath in the guest. Unset means /mnt/NAME.
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:Pattern=`^/[A-Za-z0-9_./-]*$`
	// +kubebuilder:validation:XValidation:rule="self.split('/').all(e, e != '.' && e != '..')",message="mountPath must not contain . or .. elements"
	MountPath string `json:"mountPath,omitempty"`
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

// CloudInit is handed to the guest on a NoCloud seed disk labelled cidata.
type CloudInit struct {
	// hostname of the guest. Unset means the sandbox's name.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Hostname string `json:"hostname,omitempty"`
	// sshAuthorizedKeys may log in by ssh as the image's guest user. A change
	// is applied to a running guest through its agent, or ssh where it has none.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=16384
	// +kubebuilder:validation:items:Pattern=`^(ssh-(ed25519|rsa|dss)|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com) [A-Za-z0-9+/]+={0,3}( [^\r\n]*)?$`
	SSHAuthorizedKeys []string `json:"sshAuthorizedKeys,omitempty"`
	// userData is passed to the guest's cloud-init unchanged, at first boot.
	// +optional
	// +kubebuilder:validation:MaxLength=262144
	UserData string `json:"userData,omitempty"`
	// networkConfig is cloud-init's network-config, passed unchanged. Unset
	// means DHCP on the sandbox's interface.
	// +optional
	// +kubebuilder:validation:MaxLength=65536
	NetworkConfig string `json:"networkConfig,omitempty"`
}

// Lifecycle limits how long a sandbox lives.
type Lifecycle struct {
	// ttl after which the sandbox expires, counted from its creation.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s')",message="ttl must be at least 1s"
	TTL *metav1.Duration `json:"ttl,omitempty"`
	// idleTimeout after which the sandbox expires, counted from its last use:
	// a command, a copy, a console that is read, a connection through a port
	// forward of libvirt, or a change of the spec. What reaches the guest in other
	// ways, such as ssh over a bridge, is not seen and does not count.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s')",message="idleTimeout must be at least 1s"
	IdleTimeout *metav1.Duration `json:"idleTimeout,omitempty"`
	// onExpiry says what happens then.
	// +optional
	// +kubebuilder:default=Delete
	OnExpiry ExpiryAction `json:"onExpiry,omitempty"`
}

// Readiness says when the guest counts as ready.
// +kubebuilder:validation:XValidation:rule="self.mode != 'tcp' || has(self.port)",message="port is required with mode tcp"
type Readiness struct {
	// mode of the check.
	// +optional
	// +kubebuilder:default=agent
	Mode ReadinessMode `json:"mode,omitempty"`
	// port of the guest to check, for modes ssh (default 22) and tcp.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`
}

// RevertTo puts a machine's disk back to a saved state, in place.
type RevertTo struct {
	// snapshot is a SandboxSnapshot of the namespace, or "golden" for the
	// state the sandbox was cloned in.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Snapshot string `json:"snapshot"`
	// request is any word; each new one asks for one more revert.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Request string `json:"request"`
}

// Sandbox is one throw-away virtual machine, cloned from a GoldenImage.
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced,path=sandboxes,singular=sandbox,shortName=sbx,categories=sandboxd
// +kubebuilder:subresource:status
// +kubebuilder:selectablefield:JSONPath=`.spec.image`
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
