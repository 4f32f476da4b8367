package hostnet

import "testing"

func TestIsSandboxLink(t *testing.T) {
	for name, want := range map[string]bool{
		"sb0123n01234567": true, "st0v9ai0123abcv": true, "vboxnet0": true, "vboxnet12": true, "VirtualBox Host-Only Ethernet Adapter #2": true,
		"br0": false, "eth0": false, "sb0": false, "sb-uplink": false, "storage0": false, "stack": false, "virbr0": false,
		"sb0123n0123456": false, "sb0123n012345678": false, "sb0123x01234567": false, "vboxnet": false, "vboxnetx": false, "lo": false, "": false,
	} {
		if got := IsSandboxLink(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}
