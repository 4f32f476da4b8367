package identity

import "testing"

// FuzzNetwork: a name is taken for a network of ours only if that network has
// exactly this name.
func FuzzNetwork(f *testing.F) {
	const instance = "11111111-2222-3333-4444-555555555555"
	f.Add(NetworkPrefix(instance) + "intnet.default.lab")
	f.Add(NetworkPrefix(instance) + "nat")
	f.Fuzz(func(t *testing.T, name string) {
		if n, ok := ParseNetwork(instance, name); ok && n.LibvirtName() != name {
			t.Fatalf("%q is taken for %q", name, n.LibvirtName())
		}
	})
}
