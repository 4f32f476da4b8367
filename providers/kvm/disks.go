//go:build linux

package kvm

import (
	"context"

	"sandboxd.dev/sandboxd/providers"
)

// OpenDisk implements providers.Disks.
func (p *Provider) OpenDisk(context.Context, providers.DiskRef) (providers.Disk, error) {
	return providers.Disk{}, providers.Errorf(providers.ErrUnsupported, "disks", "not available")
}
