package providers

// Severity says how much a finding matters.
type Severity string

// The severities.
const (
	// SeverityOK: as it should be.
	SeverityOK Severity = "ok"
	// SeverityWarning: it works, but not as well, as safely or as fast as it
	// could.
	SeverityWarning Severity = "warning"
	// SeverityMissing: the provider cannot work so.
	SeverityMissing Severity = "missing"
)

// Finding is one thing of the host that a provider looked at for a person who
// wants to know why it does not work.
type Finding struct {
	// Check names what was looked at, such as "libvirt".
	Check    string
	Severity Severity
	// Message is one sentence: what was seen.
	Message string
	// Fix is the command that mends it, or what to do; may be empty.
	Fix string
}
