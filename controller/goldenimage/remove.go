package goldenimage

import (
	"context"
	"errors"
	"fmt"
	"slices"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// removeObsolete removes revisions that are neither wanted nor used.
func (r *Reconciler) removeObsolete(ctx context.Context, s *state) error {
	for _, revision := range expired(s.img, obsolete(s.img.Status.Revisions, []string{s.wanted.Revision, s.plan.Base}, s.clones)) {
		err := removeRevision(ctx, s.provider, providers.ImageRef{UID: s.img.UID, Revision: revision})
		if errors.Is(err, providers.ErrBusy) {
			continue // the cache lags behind a sandbox that was just made
		}
		if err != nil {
			return err
		}
		s.img.Status.Revisions = slices.DeleteFunc(s.img.Status.Revisions, func(h v1.ImageRevision) bool {
			return h.Revision == revision
		})
	}
	return nil
}

// remove ends imports and removes every revision; true once all are gone.
func (r *Reconciler) remove(ctx context.Context, s *state) (bool, error) {
	mine := func(k Key) bool { return k.Ref.UID == s.img.UID }
	r.o.Imports.Cancel(mine)
	if r.o.Imports.Active(mine) {
		return false, providers.Errorf(providers.ErrBusy, fmt.Sprintf("image %q", s.img.Name), "its import is being cancelled")
	}
	if s.provider != nil {
		if gone, err := r.discard(ctx, s); !gone {
			return false, err
		}
		if err := r.o.Build.removeLog(s.img.UID); err != nil {
			return false, err
		}
	}
	revisions := map[string]bool{s.wanted.Revision: true}
	if s.plan.Base != "" {
		revisions[s.plan.Base] = true
	}
	for _, h := range s.img.Status.Revisions {
		revisions[h.Revision] = true
	}
	if s.provider == nil {
		return true, nil
	}
	for revision := range revisions {
		if err := removeRevision(ctx, s.provider, providers.ImageRef{UID: s.img.UID, Revision: revision}); err != nil {
			return false, err
		}
	}
	return true, nil
}

// removeRevision returns nil once nothing is left of a revision.
func removeRevision(ctx context.Context, p providers.Provider, ref providers.ImageRef) error {
	const tries = 3
	for range tries {
		err := p.DeleteImage(ctx, ref)
		if errors.Is(err, providers.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return providers.Errorf(providers.ErrBusy, "image "+ref.String(), "still there after it was deleted")
}
