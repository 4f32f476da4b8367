//go:build linux

package domain

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

// FuzzParse: whatever libvirt has for a domain, only one that bears a record which
// names it by its own UUID is taken for ours.
func FuzzParse(f *testing.F) {
	r := Record{Instance: "11111111-2222-3333-4444-555555555555", Owner: "6253d238-8ffa-4c3a-ad45-3cb04de2eed4", Namespace: "default", Name: "a"}
	element, err := r.Element(false)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("<domain type='kvm'><uuid>" + string(r.Owner) + "</uuid><metadata>" + element + "</metadata><devices><filesystem><target dir='x'/></filesystem></devices></domain>")
	f.Add("<domain><metadata><x:machine xmlns:x='" + Namespace + "'>{}</x:machine></metadata></domain>")
	f.Add("<domain>&lol;</domain>")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := Parse(text)
		if err == nil && (l.Record.Owner == "" || l.Record.Instance == "" || !strings.Contains(text, string(l.Record.Owner))) {
			t.Fatalf("the record %+v", l.Record)
		}
		_, _ = ReadBare(text)
		_, _ = SetDisk(text, []string{"/a", "/b"})
	})
}

// FuzzRecord: names come back from the XML as they went in, whatever is in them,
// and never as anything beside the record.
func FuzzRecord(f *testing.F) {
	f.Add("default", "a", "owner")
	f.Add("</x><y>", "]]>&lt;", "'\"")
	f.Fuzz(func(t *testing.T, namespace, name, owner string) {
		if owner == "" || !Writable(namespace+name+owner) {
			return
		}
		r := Record{Instance: providers.Instance("i"), Owner: types.UID(owner), Namespace: namespace, Name: name}
		element, err := r.Element(false)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadRecord(element)
		if err != nil || got.Namespace != namespace || got.Name != name || got.Owner != r.Owner {
			t.Fatalf("%+v became %+v, %v", r, got, err)
		}
	})
}
