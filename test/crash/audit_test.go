package crash_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// findings is what an audit has against a host and a store. It is empty when all
// is well.
type findings struct {
	orphans, duplicates, foreign, missing []string
}

func (f findings) none() bool {
	return len(f.orphans)+len(f.duplicates)+len(f.foreign)+len(f.missing) == 0
}

// Error implements error.
func (f findings) Error() string {
	var all []string
	for _, of := range []struct {
		what string
		list []string
	}{{"orphans", f.orphans}, {"duplicates", f.duplicates}, {"touched of others", f.foreign}, {"missing", f.missing}} {
		if len(of.list) > 0 {
			all = append(all, fmt.Sprintf("%s: %q", of.what, of.list))
		}
	}
	return strings.Join(all, "; ")
}

// scene is a host and a store, as they were seen at one time.
type scene struct {
	sandboxes []v1.Sandbox
	images    []v1.GoldenImage
	snapshots []v1.SandboxSnapshot
	// things are all that the host has of this instance.
	things []providers.Resource
	// others is everything that the host has of others, in all detail.
	others []string
}

// objects reads those of a scene.
func (s *scene) objects(ctx context.Context, c client.Reader) error {
	var sandboxes v1.SandboxList
	var images v1.GoldenImageList
	var snapshots v1.SandboxSnapshotList
	for _, list := range []client.ObjectList{&sandboxes, &images, &snapshots} {
		if err := c.List(ctx, list); err != nil {
			return err
		}
	}
	s.sandboxes, s.images, s.snapshots = sandboxes.Items, images.Items, snapshots.Items
	return nil
}

// audit holds a scene, at rest, against what must be. before is what there was of
// others.
func audit(s scene, before []string) (f findings) {
	f.duplicates = s.duplicates()
	f.foreign = differences(before, s.others)
	live := map[types.UID]bool{}
	wanted := map[types.UID]string{}
	for _, o := range s.sandboxes {
		live[o.UID], wanted[o.UID] = true, o.Namespace+"/"+o.Name
	}
	revisions := map[string]bool{}
	for _, o := range s.images {
		live[o.UID] = true
		for _, r := range o.Status.Revisions {
			revisions[providers.ImageRef{UID: o.UID, Revision: r.Revision}.String()] = true
		}
	}
	snapshots := map[types.UID]bool{}
	for _, o := range s.snapshots {
		snapshots[o.UID] = true
	}
	for _, r := range s.things {
		owned := slices.ContainsFunc(r.Owners, func(id types.UID) bool { return live[id] })
		switch r.Kind {
		case providers.ResourceMachine:
			owned = wanted[types.UID(r.ID)] != ""
			delete(wanted, types.UID(r.ID))
		case providers.ResourceImage:
			owned = revisions[r.ID]
		case providers.ResourceSnapshot:
			owned = slices.ContainsFunc(r.Owners, func(id types.UID) bool { return snapshots[id] })
		case providers.ResourceFile: // of what is under way, and nothing is
			owned = false
		}
		if !owned {
			f.orphans = append(f.orphans, fmt.Sprintf("%s %s (%s)", r.Kind, r.ID, r.Description))
		}
	}
	for _, name := range slices.Sorted(maps.Values(wanted)) {
		f.missing = append(f.missing, "machine of sandbox "+name)
	}
	for _, o := range s.sandboxes {
		if o.Status.Restarts != 0 {
			f.missing = append(f.missing, fmt.Sprintf("sandbox %s without a restart: it counts %d", o.Name, o.Status.Restarts))
		}
	}
	return f
}

// duplicates lists what must not be there twice at any time.
func (s scene) duplicates() (twice []string) {
	seen := map[string]int{}
	for _, r := range s.things {
		seen[string(r.Kind)+" "+r.ID]++
		if r.Kind == providers.ResourceMachine {
			seen["machine of "+cmp.Or(r.Description, r.ID)]++
		}
	}
	for what, n := range seen {
		if n > 1 {
			twice = append(twice, fmt.Sprintf("%d times %s", n, what))
		}
	}
	slices.Sort(twice)
	return twice
}

func differences(before, now []string) (all []string) {
	for _, line := range before {
		if !slices.Contains(now, line) {
			all = append(all, "gone: "+line)
		}
	}
	for _, line := range now {
		if !slices.Contains(before, line) {
			all = append(all, "new: "+line)
		}
	}
	return all
}
