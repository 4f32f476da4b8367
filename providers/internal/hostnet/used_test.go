package hostnet

import (
	"net/netip"
	"slices"
	"testing"
)

func TestLoopbackIsUsed(t *testing.T) {
	used, err := UsedSubnets()
	if err != nil {
		t.Fatal(err)
	}
	if loopback := netip.MustParsePrefix("127.0.0.0/8"); !slices.Contains(used, loopback) {
		t.Errorf("%s is not among the used subnets %v", loopback, used)
	}
}
