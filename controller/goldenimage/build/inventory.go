package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// place is what Logs are called beside the providers.
const place v1.ProviderName = "daemon"

// suffix of the files.
const suffix = ".log"

var _ providers.Inventory = (*Logs)(nil)

// Name tells the logs from what providers keep.
func (l *Logs) Name() v1.ProviderName { return place }

// ListResources implements providers.Inventory. The folder is the daemon's own, but
// only what has the name of a log is listed.
func (l *Logs) ListResources(ctx context.Context) (all []providers.Resource, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(l.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, providers.Errorf(providers.ErrUnavailable, "build logs", "their folder cannot be read: %w", err)
	}
	for _, e := range entries {
		id, isLog := strings.CutSuffix(e.Name(), suffix)
		path, err := l.path(types.UID(id))
		if !isLog || err != nil || !e.Type().IsRegular() {
			continue
		}
		all = append(all, providers.Resource{
			Kind: providers.ResourceLog, ID: id, Owners: []types.UID{types.UID(id)},
			Ownership: providers.Ours, Description: "build log " + path,
		})
	}
	return all, nil
}

// RemoveResource implements providers.Inventory.
func (l *Logs) RemoveResource(ctx context.Context, r providers.Resource) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	object := fmt.Sprintf("build log %q", r.ID)
	path, err := l.path(types.UID(r.ID))
	switch {
	case err != nil:
		return err
	case r.Ownership != providers.Ours || r.Kind != providers.ResourceLog:
		return providers.Errorf(providers.ErrInvalid, object, "it is not a log of ours: it is not touched")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.written[types.UID(r.ID)] != nil {
		return providers.Errorf(providers.ErrBusy, object, "a build is writing it")
	}
	switch err := os.Remove(path); {
	case errors.Is(err, fs.ErrNotExist):
		return providers.Errorf(providers.ErrNotFound, object, "it is gone")
	case err != nil:
		return providers.Errorf(providers.ErrUnavailable, object, "it cannot be removed: %w", err)
	}
	return nil
}
