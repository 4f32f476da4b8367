package conformance

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

func (s *suite) testOwnership(t *testing.T) {
	t.Run("a machine that is not ours is absent, ErrAlreadyExists to make, and untouched", s.testForeign)
	t.Run("two instances on one hypervisor leave each other alone", s.testTwoInstances)
}

func (s *suite) testForeign(t *testing.T) {
	spec := s.spec(t, "machine")
	id := spec.ID
	describe := s.b.Foreign(t, id)
	before := describe()
	want(t, "EnsureMachine", s.p.EnsureMachine(s.ctx(t), spec), providers.ErrAlreadyExists)
	s.wantAbsent(t, s.p, id)
	r := providers.Resource{Kind: providers.ResourceMachine, ID: string(id), Owners: []types.UID{id}, Ownership: providers.Ours}
	want(t, "RemoveResource", s.p.RemoveResource(s.ctx(t), r), providers.ErrInvalid)
	if after := describe(); after != before {
		t.Errorf("the machine of others was\n%s\nand is now\n%s", before, after)
	}
}

// wantAbsent checks that a provider neither sees nor touches a machine.
func (s *suite) wantAbsent(t *testing.T, p providers.Provider, id types.UID) {
	t.Helper()
	mine := s.p
	s.p = p
	defer func() { s.p = mine }()
	for name, err := range s.onMachine(t, id) {
		want(t, name, err, providers.ErrNotFound)
	}
	for _, r := range s.resources(t, ownedBy(id)) {
		if r.Ownership == providers.Ours {
			t.Errorf("it is listed as ours: %+v", r)
		}
	}
}

func (s *suite) testTwoInstances(t *testing.T) {
	other := check(t, s.b.Open(t, providers.Instance(uuidOf(string(s.instance), "other"))))
	defer func() { must(t, "close", other.Close()) }()
	spec := s.spec(t, "machine")
	id := s.made(t, spec)
	s.start(t, id)
	resources := s.resources(t, ownedBy(id))

	_, err := other.GetImage(s.ctx(t), s.image.ImageRef)
	want(t, "the other's GetImage", err, providers.ErrNotFound)
	want(t, "the other's DeleteImage", other.DeleteImage(s.ctx(t), s.image.ImageRef), providers.ErrNotFound)
	want(t, "the other's EnsureMachine", other.EnsureMachine(s.ctx(t), spec), providers.ErrAlreadyExists)
	s.wantAbsent(t, other, id)
	if all, err := other.ListResources(s.ctx(t)); err != nil || len(all) > 0 {
		t.Errorf("the other lists %+v, %v", all, err)
	}
	for _, r := range resources {
		err := other.RemoveResource(s.ctx(t), r)
		want(t, "the other's removal of the "+string(r.Kind), err, providers.ErrInvalid, providers.ErrNotFound)
	}
	if m := s.wantPower(t, id, providers.PowerRunning); m.Hashes != spec.Hashes() {
		t.Errorf("the machine is now %+v", m)
	}
	if now := s.resources(t, ownedBy(id)); len(now) != len(resources) {
		t.Errorf("of %+v there is left %+v", resources, now)
	}
	s.forceOff(t, id)
	s.start(t, id) // it still has all that it needs
}
