package virtualbox

import (
	"context"
	"errors"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
)

// remnantResource ends the ID of what is left of a snapshot.
const remnantResource = "/remnant"

// listSnapshots lists the snapshots of a machine, and what is left of others if it
// can be removed by now. A snapshot that is taken to its end is its machine's as
// well.
func (p *Provider) listSnapshots(r record) []providers.Resource {
	all, err := p.statesOf(r)
	if err != nil { // the machine is listed in any case
		p.log.Info("a machine's snapshots are not listed", "machine", r.ID, "error", err.Error())
		return nil
	}
	var out []providers.Resource
	for _, s := range all {
		of := providers.Resource{
			Kind: providers.ResourceSnapshot, ID: providers.SnapshotRef{Machine: r.ID, ID: s.note.ID}.String(), Ownership: providers.Ours,
			Owners: []types.UID{r.ID, s.note.ID}, Description: "snapshot " + s.name + " of VirtualBox machine " + r.VM,
		}
		switch {
		case s.committed():
		case s.remnant() && p.removable(r, s) == nil:
			of.ID, of.Owners = of.ID+remnantResource, of.Owners[1:]
		default:
			continue
		}
		out = append(out, of)
	}
	return out
}

// removeSnapshot removes a snapshot, or what is left of one.
func (p *Provider) removeSnapshot(ctx context.Context, object, id string) error {
	id, remnant := strings.CutSuffix(id, remnantResource)
	origin, snapshot, _ := strings.Cut(id, "/")
	ref := providers.SnapshotRef{Machine: types.UID(origin), ID: types.UID(snapshot)}
	if !datafolder.IsUUID(ref.Machine) || !datafolder.IsUUID(ref.ID) {
		return providers.Errorf(providers.ErrInvalid, object, "it is not of a kind that is made here")
	}
	err := p.dropSnapshot(ctx, ref, remnant)
	var r remains
	if errors.As(err, &r) {
		return r.error
	}
	return err
}
