package hostnet

import "testing"

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
