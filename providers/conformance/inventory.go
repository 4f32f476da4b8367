package conformance

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

func (s *suite) testInventory(t *testing.T) {
	t.Run("ListResources lists what belongs to a machine with its owner", s.testListed)
	t.Run("RemoveResource is ErrBusy for what others depend on", s.testRemoveInUse)
	t.Run("RemoveResource removes a machine as DeleteMachine does", s.testRemoveMachine)
	t.Run("what a machine leaves that others removed is listed and can be removed", s.testOrphans)
	t.Run("DeleteMachine removes what a machine left that others removed", s.testDeleteOrphans)
	t.Run("RemoveResource leaves alone what is not said to be ours", s.testRemoveAmbiguous)
}

func ofKind(kind providers.ResourceKind, id types.UID) func(providers.Resource) bool {
	return func(r providers.Resource) bool { return r.Kind == kind && ownedBy(id)(r) }
}

// one returns the only resource of a kind that belongs to an object.
func (s *suite) one(t *testing.T, kind providers.ResourceKind, owner types.UID) providers.Resource {
	t.Helper()
	found := s.resources(t, ofKind(kind, owner))
	if len(found) != 1 {
		t.Fatalf("there are %d resources of kind %s: %+v", len(found), kind, found)
	}
	return found[0]
}

func (s *suite) testListed(t *testing.T) {
	id := s.made(t, s.spec(t, "machine"))
	s.start(t, id)
	all := s.resources(t, ownedBy(id))
	for _, kind := range []providers.ResourceKind{providers.ResourceMachine, providers.ResourceDisk} {
		s.one(t, kind, id)
	}
	seen := map[string]bool{}
	for _, r := range all {
		if r.Ownership != providers.Ours || r.ID == "" || r.Description == "" {
			t.Errorf("it is listed as %+v", r)
		}
		if key := string(r.Kind) + " " + r.ID; seen[key] {
			t.Errorf("%s is listed twice", key)
		} else {
			seen[key] = true
		}
	}
	image := s.one(t, providers.ResourceImage, s.image.UID)
	if slices.Contains(image.Owners, id) {
		t.Errorf("a clone is said to own its image: %+v", image)
	}
	s.reopen(t)
	again := s.resources(t, ownedBy(id))
	for _, r := range again {
		if !seen[string(r.Kind)+" "+r.ID] {
			t.Errorf("a new process lists %+v, which the last did not", r)
		}
	}
	if len(again) != len(all) {
		t.Errorf("a new process lists %d resources, the last %d", len(again), len(all))
	}
}

func (s *suite) testRemoveInUse(t *testing.T) {
	id := s.made(t, s.spec(t, "machine"))
	for _, r := range append(s.resources(t, ownedBy(id)), s.one(t, providers.ResourceImage, s.image.UID)) {
		if r.Kind != providers.ResourceMachine {
			want(t, "remove the "+string(r.Kind), s.p.RemoveResource(s.ctx(t), r), providers.ErrBusy)
		}
	}
	if _, err := s.p.GetImage(s.ctx(t), s.image.ImageRef); err != nil {
		t.Errorf("the image: %v", err)
	}
	s.start(t, id) // it still has all that it needs
}

func (s *suite) testRemoveMachine(t *testing.T) {
	id := s.made(t, s.spec(t, "machine"))
	s.start(t, id)
	r := s.one(t, providers.ResourceMachine, id)
	must(t, "remove", s.p.RemoveResource(s.ctx(t), r))
	if left := s.resources(t, ownedBy(id)); len(left) > 0 {
		t.Errorf("left of the machine: %+v", left)
	}
	want(t, "remove again", s.p.RemoveResource(s.ctx(t), r), providers.ErrNotFound)
	want(t, "delete", s.p.DeleteMachine(s.ctx(t), id), providers.ErrNotFound)
}

// orphan makes a machine whose definition others have removed.
func (s *suite) orphan(t *testing.T) types.UID {
	t.Helper()
	s.need(t, Outside)
	id := s.made(t, s.spec(t, "machine"))
	s.start(t, id)
	s.forceOff(t, id)
	s.b.Undefine(t, id)
	_, err := s.p.GetMachine(s.ctx(t), id)
	want(t, "get what others removed", err, providers.ErrNotFound)
	return id
}

func (s *suite) testOrphans(t *testing.T) {
	id := s.orphan(t)
	s.one(t, providers.ResourceDisk, id)
	left := s.resources(t, ownedBy(id))
	for _, r := range left {
		if r.Kind == providers.ResourceMachine {
			t.Errorf("a machine that is not there is listed: %+v", r)
		}
		must(t, "remove the "+string(r.Kind), s.p.RemoveResource(s.ctx(t), r))
	}
	for _, r := range left {
		want(t, "remove the "+string(r.Kind)+" again", s.p.RemoveResource(s.ctx(t), r), providers.ErrNotFound)
	}
	if left := s.resources(t, ownedBy(id)); len(left) > 0 {
		t.Errorf("still there: %+v", left)
	}
}

func (s *suite) testDeleteOrphans(t *testing.T) {
	s.remove(t, s.orphan(t))
}

func (s *suite) testRemoveAmbiguous(t *testing.T) {
	id := s.made(t, s.spec(t, "machine"))
	for _, r := range s.resources(t, ownedBy(id)) {
		for _, o := range []providers.Ownership{providers.Ambiguous, ""} {
			r.Ownership = o
			want(t, "remove the "+string(r.Kind), s.p.RemoveResource(s.ctx(t), r), providers.ErrInvalid)
		}
	}
	s.start(t, id) // it still has all that it needs
}
