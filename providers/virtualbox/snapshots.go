package virtualbox

import (
	"context"

	"sandboxd.dev/sandboxd/providers"
)

func noSnapshots() error {
	return providers.Errorf(providers.ErrUnsupported, "snapshots", "not available")
}

// TakeSnapshot implements providers.Snapshots.
func (p *Provider) TakeSnapshot(context.Context, providers.SnapshotSpec) (providers.Snapshot, error) {
	return providers.Snapshot{}, noSnapshots()
}

// GetSnapshot implements providers.Snapshots.
func (p *Provider) GetSnapshot(context.Context, providers.SnapshotRef) (providers.Snapshot, error) {
	return providers.Snapshot{}, noSnapshots()
}

// RevertMachine implements providers.Snapshots.
func (p *Provider) RevertMachine(context.Context, providers.SnapshotRef) error { return noSnapshots() }

// DeleteSnapshot implements providers.Snapshots.
func (p *Provider) DeleteSnapshot(context.Context, providers.SnapshotRef) error {
	return noSnapshots()
}
