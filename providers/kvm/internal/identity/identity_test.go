package identity

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/hostnet"
)

const linkNameMax = 15 // IFNAMSIZ - 1

var label = rapid.StringMatching(`[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?`)

func drawNetwork(t *rapid.T) Network {
	n := Network{
		Instance: providers.Instance(rapid.StringMatching(`[0-9a-f-]{8,36}`).Draw(t, "instance")),
		Mode:     rapid.SampledFrom([]v1.NetworkMode{v1.NetworkIntnet, v1.NetworkHostOnly, v1.NetworkNAT}).Draw(t, "mode"),
	}
	if n.Mode != v1.NetworkNAT {
		n.Namespace, n.Name = label.Draw(t, "namespace"), label.Draw(t, "name")
	}
	return n
}

func TestNamesOfNetworks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, other := drawNetwork(t), drawNetwork(t)
		if got, ok := ParseNetwork(n.Instance, n.LibvirtName()); !ok || got != n {
			t.Fatalf("%q parses to %+v, %v", n.LibvirtName(), got, ok)
		}
		if len(n.Bridge()) != linkNameMax || !strings.HasPrefix(n.Bridge(), BridgePrefix(n.Instance, n.Mode)) ||
			!strings.HasPrefix(n.Bridge(), InstanceBridges(n.Instance)) || !strings.HasPrefix(n.Bridge(), AnyBridge) {
			t.Fatalf("bridge %q", n.Bridge())
		}
		if n != other && (n.UUID() == other.UUID() || n.Bridge() == other.Bridge()) {
			t.Fatalf("%+v and %+v have the same names", n, other)
		}
		if _, err := uuid.Parse(n.UUID()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestNamesOfOthersDoNotParse(t *testing.T) {
	for _, name := range []string{
		"default", "sandboxd-", "sandboxd-01234567-", "sandboxd-01234567-nat.a", "sandboxd-01234567-nat.a.b.c",
		"sandboxd-01234567-intnet.a", "sandboxd-89abcdef-nat", "sandboxd-01234567-hostonly..",
	} {
		if n, ok := ParseNetwork("0123456789", name); ok && n.Name != "" {
			t.Errorf("%q parses to %+v", name, n)
		}
	}
}

func TestTaps(t *testing.T) {
	seen := map[string]bool{}
	for _, mode := range []v1.NetworkMode{v1.NetworkIntnet, v1.NetworkHostOnly, v1.NetworkNAT, v1.NetworkBridged} {
		for i := range 1000 { // the same ones each time: of enough at random, two would have the same tap
			tap := Tap("instance", mode, types.UID(uuid.NewSHA1(uuid.Nil, []byte{byte(i), byte(i >> 8)}).String()))
			if len(tap) != linkNameMax || !strings.HasPrefix(tap, InstanceTaps("instance")) || !strings.HasPrefix(tap, TapPrefix("instance", mode)) || seen[tap] {
				t.Fatalf("tap %q", tap)
			}
			seen[tap] = true
		}
	}
}

func TestLinksAreKnownByTheirNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := drawNetwork(t)
		if tap := Tap(n.Instance, n.Mode, types.UID(label.Draw(t, "machine"))); !hostnet.IsSandboxLink(n.Bridge()) || !hostnet.IsSandboxLink(tap) {
			t.Fatalf("%s and %s are not known", n.Bridge(), tap)
		}
	})
}

func TestDomainName(t *testing.T) {
	const id = "6253d238-8ffa-4c3a-ad45-3cb04de2eed4"
	for _, tc := range []struct{ name, want string }{
		{"web", "team.web.6253d238"},
		{strings.Repeat("a", 253), "team." + strings.Repeat("a", 186) + ".6253d238"},
		{strings.Repeat("a", 185) + ".b", "team." + strings.Repeat("a", 185) + ".6253d238"},
	} {
		if got := DomainName("team", tc.name, id); got != tc.want || len(got) > maxDomainName {
			t.Errorf("%s: got %s", tc.name, got)
		}
	}
}

func TestNetworkOf(t *testing.T) {
	for _, tc := range []struct {
		network v1.Network
		want    string
	}{
		{v1.Network{Mode: v1.NetworkNone}, ""},
		{v1.Network{Mode: v1.NetworkBridged, Bridge: "br0"}, ""},
		{v1.Network{Mode: v1.NetworkNAT}, "sandboxd-instance-nat"},
		{v1.Network{Mode: v1.NetworkIntnet}, "sandboxd-instance-intnet.team.default"},
		{v1.Network{Mode: v1.NetworkHostOnly, Name: "x"}, "sandboxd-instance-hostonly.team.x"},
	} {
		n, ok := NetworkOf("instance", "team", tc.network)
		if ok != (tc.want != "") || ok && n.LibvirtName() != tc.want {
			t.Errorf("%+v needs %q, %v; want %q", tc.network, n.LibvirtName(), ok, tc.want)
		}
	}
}
