//go:build linux

package kvm

import (
	"context"
	"fmt"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/source"
)

// CheckSource implements providers.Images.
func (p *Provider) CheckSource(ctx context.Context, spec providers.ImageSpec) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	object := fmt.Sprintf("image %q", spec.Name)
	if spec.From != nil {
		_, release, err := p.holdOrigin(ctx, object, spec)
		if err != nil {
			return err
		}
		release()
		return nil
	}
	origin, err := source.Of(object, p.Name(), spec)
	if err != nil {
		return err
	}
	return p.fileError(object, source.Check(ctx, object, origin, p.opts.MaxImageBytes))
}
