package v1

// FinalizerMachine keeps a Sandbox until its machine is gone.
const FinalizerMachine = GroupName + "/machine"

// FinalizerImage keeps a GoldenImage until every revision of it is gone.
const FinalizerImage = GroupName + "/image"

// FinalizerSnapshot keeps a SandboxSnapshot until what it holds is gone.
const FinalizerSnapshot = GroupName + "/snapshot"

// AnnotationPruneBefore on a GoldenImage, a time as in RFC 3339, has its former
// revisions removed that were sealed before it and that nothing uses, whatever
// spec.revisionHistoryLimit says.
const AnnotationPruneBefore = GroupName + "/prune-before"

// Condition types of a GoldenImage.
const (
	// ConditionVerified: the source was read and its digest is the wanted one
	// (or none was given).
	ConditionVerified = "Verified"
	// ConditionImported: a sealed copy in the provider's format exists.
	ConditionImported = "Imported"
	// ConditionProvisioned, below, of an image: every step of spec.provision was
	// run in the machine that the sealed copy was made of. Present only when the
	// spec has steps, or installs.
)

// AnnotationRebuild on a GoldenImage has a build that failed tried again, once for
// each value.
const AnnotationRebuild = GroupName + "/rebuild"

// Condition types of a Sandbox.
const (
	// ConditionImageReady: the named GoldenImage is ready to be cloned.
	ConditionImageReady = "ImageReady"
	// ConditionAdmitted: the host has room for the machine and keeps it: memory,
	// cpus and disk are reserved. False while that is waited for, with the figures,
	// or with the one that is before it in line. Present from when it is first asked
	// for.
	ConditionAdmitted = "Admitted"
	// ConditionProvisioned: the machine, its disk, seed and network exist as
	// the spec says.
	ConditionProvisioned = "Provisioned"
	// ConditionNetworkIsolated: the machine's connections were looked at on
	// the host and are exactly what spec.network allows. It is never inferred.
	// A hypervisor that cannot keep a guest from everything that the mode rules
	// out makes it False with the reason NotEnforceable; that alone does not keep the
	// sandbox from being ready.
	ConditionNetworkIsolated = "NetworkIsolated"
	// ConditionPoweredOn: the machine is running.
	ConditionPoweredOn = "PoweredOn"
	// ConditionGuestReady: the check named by spec.readiness passed.
	ConditionGuestReady = "GuestReady"
	// ConditionDrifted: the machine differs from what the spec says; present
	// only while true.
	ConditionDrifted = "Drifted"
)

// Condition types of every kind.
const (
	// ConditionReady: the object can be used: an image cloned, a running
	// sandbox worked in. When it cannot, reason and message say what is waited
	// for, what is wrong, or that it is off because the spec says so.
	ConditionReady = "Ready"
	// ConditionStalled: the controller cannot make progress until somebody
	// changes something; present only while true.
	ConditionStalled = "Stalled"
)

// Condition reasons. A reason names the cause; the message gives the details.
const (
	// ReasonAsSpecified: what was observed is what the spec asks for.
	ReasonAsSpecified = "AsSpecified"
	// ReasonObserved: seen to be so on the host.
	ReasonObserved = "Observed"
	// ReasonNotObserved: not seen to be so, or not looked at yet.
	ReasonNotObserved = "NotObserved"
	// ReasonNotEnforceable: the connections are as defined, and the hypervisor
	// cannot keep the guest from all that the network mode rules out.
	ReasonNotEnforceable = "NotEnforceable"
	// ReasonReconciling: work towards the spec is under way.
	ReasonReconciling = "Reconciling"
	// ReasonDeleting: the object is being deleted.
	ReasonDeleting = "Deleting"
	// ReasonInUse: other objects depend on this one.
	ReasonInUse = "InUse"
	// ReasonExpired: the sandbox's time is up.
	ReasonExpired = "Expired"

	// ReasonTaking: the machine's state is being kept.
	ReasonTaking = "Taking"
	// ReasonLost: the hypervisor has it no more.
	ReasonLost = "Lost"
	// ReasonSandboxNotFound: no Sandbox of that name exists.
	ReasonSandboxNotFound = "SandboxNotFound"
	// ReasonSandboxNotReady: the Sandbox's state cannot be kept yet.
	ReasonSandboxNotReady = "SandboxNotReady"
	// ReasonSnapshotNotFound: no SandboxSnapshot of that name exists.
	ReasonSnapshotNotFound = "SnapshotNotFound"
	// ReasonSnapshotNotReady: the SandboxSnapshot is not ready.
	ReasonSnapshotNotReady = "SnapshotNotReady"

	// ReasonImporting: the source is being read and converted.
	ReasonImporting = "Importing"
	// ReasonImported: a sealed copy exists.
	ReasonImported = "Imported"
	// ReasonSandboxOn: the sandbox that is to become an image is not off.
	ReasonSandboxOn = "SandboxOn"
	// ReasonDigestMatches: the source has the digest that the spec gives.
	ReasonDigestMatches = "DigestMatches"
	// ReasonChecksumMatches: the source has the digest that the file at
	// spec.source.disk.checksumURL gives.
	ReasonChecksumMatches = "ChecksumMatches"
	// ReasonDigestRecorded: the spec gives no digest; that of the first import is
	// in status, and must be the same when the source is read again.
	ReasonDigestRecorded = "DigestRecorded"

	// ReasonProvisioning: a machine builds the image: it is installed, or its
	// provision steps run.
	ReasonProvisioning = "Provisioning"
	// ReasonProvisioned: all provision steps were run.
	ReasonProvisioned = "Provisioned"
	// ReasonProvisionFailed: a provision step failed. It is not tried again until
	// the spec changes.
	ReasonProvisionFailed = "ProvisionFailed"
	// ReasonBuildTimedOut: the build took longer than spec.build.timeout.
	ReasonBuildTimedOut = "BuildTimedOut"
	// ReasonBuildFailed: the machine that builds the image was lost again and
	// again, or its guest does not answer.
	ReasonBuildFailed = "BuildFailed"

	// ReasonImageNotFound: no GoldenImage of that name exists.
	ReasonImageNotFound = "ImageNotFound"
	// ReasonImageNotReady: the GoldenImage is not ready.
	ReasonImageNotReady = "ImageNotReady"
	// ReasonImageReady: the GoldenImage is ready.
	ReasonImageReady = "ImageReady"

	// ReasonCreating: the machine is being made.
	ReasonCreating = "Creating"
	// ReasonCreated: the machine exists.
	ReasonCreated = "Created"
	// ReasonStarting: the machine is being started.
	ReasonStarting = "Starting"
	// ReasonRunning: the machine runs.
	ReasonRunning = "Running"
	// ReasonStopping: the guest was asked to shut down.
	ReasonStopping = "Stopping"
	// ReasonStopped: the machine is off.
	ReasonStopped = "Stopped"
	// ReasonSuspended: the machine's state is saved on disk.
	ReasonSuspended = "Suspended"
	// ReasonPaused: the machine is on but its CPUs are halted.
	ReasonPaused = "Paused"
	// ReasonExited: the machine powered off by itself and is left off.
	ReasonExited = "Exited"
	// ReasonCrashed: the machine ended without shutting down.
	ReasonCrashed = "Crashed"
	// ReasonMachineLost: the hypervisor had the machine no more.
	ReasonMachineLost = "MachineLost"
	// ReasonPowerChanged: somebody else powered the machine off, paused it or
	// started it.
	ReasonPowerChanged = "PowerChanged"
	// ReasonDefinitionChanged: somebody else changed the machine's hardware or its
	// name.
	ReasonDefinitionChanged = "DefinitionChanged"
	// ReasonNetworkChanged: somebody else changed the machine's connections, or
	// the network they lead to.
	ReasonNetworkChanged = "NetworkChanged"
	// ReasonDiskLost: a file is gone that the machine's disk needs.
	ReasonDiskLost = "DiskLost"
	// ReasonDiskChanged: the machine's disk is another one than it was made with.
	ReasonDiskChanged = "DiskChanged"
	// ReasonForeignSnapshots: somebody else took snapshots of the machine.
	ReasonForeignSnapshots = "ForeignSnapshots"
	// ReasonRestartRequired: a changed setting takes effect at the next start.
	ReasonRestartRequired = "RestartRequired"

	// ReasonAgentConnected: the guest agent answers.
	ReasonAgentConnected = "AgentConnected"
	// ReasonWaitingForAgent: the guest agent has not answered yet.
	ReasonWaitingForAgent = "WaitingForAgent"
	// ReasonAgentUnknown: the guest agent answered before and does not now.
	ReasonAgentUnknown = "AgentUnknown"
	// ReasonProbeSucceeded: the ssh or tcp check passed.
	ReasonProbeSucceeded = "ProbeSucceeded"
	// ReasonWaitingForProbe: the ssh or tcp check has not passed yet.
	ReasonWaitingForProbe = "WaitingForProbe"
	// ReasonNotChecked: spec.readiness asks for no check.
	ReasonNotChecked = "NotChecked"
	// ReasonPoweredOff: the machine is not running.
	ReasonPoweredOff = "PoweredOff"
	// ReasonGuestConfigFailed: ssh keys or mounts could not be applied.
	ReasonGuestConfigFailed = "GuestConfigFailed"

	// ReasonHostPathForbidden: a path of the host is not below an allowed root.
	ReasonHostPathForbidden = "HostPathForbidden"
	// ReasonHostPathNotFound: a path of the host does not exist.
	ReasonHostPathNotFound = "HostPathNotFound"

	// ReasonReserved: memory, cpus and disk are reserved, as the message says.
	ReasonReserved = "Reserved"
	// ReasonWaitingInLine: there is no room yet, and others that came before are
	// served first.
	ReasonWaitingInLine = "WaitingInLine"

	// The kinds of provider errors, as reasons.

	// ReasonInvalid: what the spec asks for is wrong, and stays wrong.
	ReasonInvalid = "Invalid"
	// ReasonUnsupported: this hypervisor, host or image cannot do it.
	ReasonUnsupported = "Unsupported"
	// ReasonUnavailable: the hypervisor, a server or the guest does not answer; it
	// is tried again.
	ReasonUnavailable = "ProviderUnavailable"
	// ReasonBusy: it cannot be done in the present state, or while others use it; it
	// is tried again.
	ReasonBusy = "Busy"
	// ReasonCapacity: the host has too little memory, disk space, ports or
	// addresses, or no room by its budget; it is tried again.
	ReasonCapacity = "InsufficientCapacity"
	// ReasonNotFound: something that is needed does not exist; it is tried again.
	ReasonNotFound = "NotFound"
	// ReasonAlreadyExists: something of somebody else's has the name or the identity.
	ReasonAlreadyExists = "AlreadyExists"
	// ReasonError: anything else, such as an error of the API server; it is tried again.
	ReasonError = "Error"
)
