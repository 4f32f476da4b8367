//go:build linux

package domain

import (
	"encoding/xml"
	"maps"
	"slices"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// TestNoOtherDevices: a machine has what it needs, and nothing else, in every mode.
func TestNoOtherDevices(t *testing.T) {
	for _, mode := range []v1.NetworkMode{v1.NetworkNone, v1.NetworkIntnet, v1.NetworkHostOnly, v1.NetworkNAT, v1.NetworkBridged} {
		for _, firmware := range []v1.Firmware{v1.FirmwareBIOS, v1.FirmwareEFI} {
			s := spec(mode)
			s.Firmware = firmware
			devices := devicesIn(t, build(t, s))
			want := map[string]int{"disk": 2, "controller usb none": 1, "filesystem": 2, "serial": 1, "console": 1, "channel org.qemu.guest_agent.0": 1, "memballoon none": 1, "rng": 1}
			if mode != v1.NetworkNone {
				want["interface"] = 1
			}
			if !maps.Equal(devices, want) {
				t.Errorf("%s, %s: %v, want %v", mode, firmware, devices, want)
			}
		}
	}
}

// devicesIn counts the devices of a domain by their kinds.
func devicesIn(t *testing.T, text string) map[string]int {
	t.Helper()
	var d struct {
		Devices struct {
			All []struct {
				XMLName xml.Name
				Type    string `xml:"type,attr"`
				Model   string `xml:"model,attr"`
				Target  struct {
					Name string `xml:"name,attr"`
				} `xml:"target"`
			} `xml:",any"`
		} `xml:"devices"`
	}
	if err := xml.Unmarshal([]byte(text), &d); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, e := range d.Devices.All {
		words := []string{e.XMLName.Local}
		switch e.XMLName.Local {
		case "controller":
			words = append(words, e.Type, e.Model)
		case "memballoon":
			words = append(words, e.Model)
		case "channel":
			words = append(words, e.Target.Name)
		}
		count[strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " ")]++
	}
	return count
}
