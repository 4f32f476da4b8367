package build

// Failure is why a build failed for good: trying again would end the same.
type Failure struct {
	// Reason of the Stalled condition.
	Reason string
	// Step that failed; empty when none did.
	Step string
	// ExitCode of its script; nil when it is not that.
	ExitCode *int32
	// Message is what failed, for a person.
	Message string
}

// Error implements error.
func (f *Failure) Error() string { return f.Message }
