package hostnet

import (
	"testing"

	"github.com/vishvananda/netlink"
)

func TestLookSeesLoopback(t *testing.T) {
	v, err := Look()
	if err != nil {
		t.Fatal(err)
	}
	lo, ok := v.Links["lo"]
	if !ok || lo.Master != 0 || lo.Isolated {
		t.Fatalf("loopback is %+v, %v", lo, ok)
	}
	if len(v.Ports(lo)) != 0 {
		t.Errorf("loopback has ports: %v", v.Ports(lo))
	}
}

// TestPortsBetweenLooks: a link that was a port when the links were listed, and is gone
// when the ports are, is not an open port.
func TestPortsBetweenLooks(t *testing.T) {
	v := View{Links: map[string]Link{}}
	bridge := Link{Name: "br", Index: 3, Kind: "bridge"}
	ports := map[int]bool{5: true, 6: false} // 4 vanished, 7 came
	for i, name := range map[int]string{4: "gone", 5: "isolated", 6: "open"} {
		v.add(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name, Index: i, MasterIndex: bridge.Index}}, ports)
	}
	seen := map[string]bool{}
	for _, p := range v.Ports(bridge) {
		seen[p.Name] = p.Isolated
	}
	if open, ok := seen["open"]; len(seen) != 2 || !seen["isolated"] || !ok || open {
		t.Errorf("the ports are %v", seen)
	}
	if l := v.Links["gone"]; l.Master != 0 || l.Index != 4 {
		t.Errorf("what is gone is %+v", l)
	}
}
