package build

import (
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// Plan is how a revision of an image is made.
type Plan struct {
	// Revision that sandboxes are cloned from in the end.
	Revision string
	// Base is the revision that is imported first and that the machine is a clone
	// of; empty when the installer makes the disk, or when there is no machine.
	Base string
	// Machine: the revision is built in a machine, not imported.
	Machine bool
	// Install: the machine runs an installer first.
	Install bool
	// Provision: the guest is booted to run steps.
	Provision bool
	// Agent: the guest has an agent that tells when it is up. Otherwise the job of
	// the steps finds out.
	Agent bool
	// Timeout of the whole build.
	Timeout time.Duration
}

// DefaultTimeout of a build.
const DefaultTimeout = time.Hour

// PlanOf derives the plan from a spec.
func PlanOf(spec v1.GoldenImageSpec) Plan {
	p := Plan{
		Revision:  providers.RevisionOf(spec.Source, spec.Provision),
		Install:   spec.Source.ISO != nil,
		Provision: len(spec.Provision) > 0,
		Agent:     spec.Guest.Agent != v1.GuestAgentNone,
		Timeout:   DefaultTimeout,
	}
	p.Machine = p.Install || p.Provision
	if p.Machine && !p.Install {
		p.Base = providers.RevisionOf(spec.Source, nil)
	}
	if t := spec.Build.Timeout; t != nil {
		p.Timeout = t.Duration
	}
	return p
}

// Check refuses what cannot be built, however often it is tried.
func Check(object string, spec v1.GoldenImageSpec) error {
	if len(spec.Provision) > 0 && spec.Guest.Agent == v1.GuestAgentNone && spec.Build.Network != v1.NetworkNAT {
		return providers.Errorf(providers.ErrUnsupported, object,
			"its guest has no agent (guest.agent is None), so its provision steps go by ssh, and without a network the host does not reach it: set spec.build.network to nat")
	}
	return nil
}
