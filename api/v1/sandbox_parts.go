package v1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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
