package machinespec_test

import (
	"errors"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/machinespec"
)

func TestCheck(t *testing.T) {
	limits := machinespec.Limits{CPUs: 16, Memory: 64 << 20}
	fine := providers.MachineSpec{
		ID: "6253d238-8ffa-4c3a-ad45-3cb04de2eed4", Namespace: "team", Name: "web", Image: providers.ImageRef{UID: "i", Revision: "r"},
		CPUs: 1, MemoryBytes: 64 << 20, Network: v1.Network{Mode: v1.NetworkNone},
	}
	if err := machinespec.Check(fine, limits); err != nil {
		t.Fatal(err)
	}
	nat := func(f ...v1.PortForward) v1.Network { return v1.Network{Mode: v1.NetworkNAT, PortForwards: f} }
	for name, edit := range map[string]func(*providers.MachineSpec){
		"ID":               func(s *providers.MachineSpec) { s.ID = "../x" },
		"upper-case ID":    func(s *providers.MachineSpec) { s.ID = "6253D238-8FFA-4C3A-AD45-3CB04DE2EED4" },
		"name":             func(s *providers.MachineSpec) { s.Name = "A b" },
		"no namespace":     func(s *providers.MachineSpec) { s.Namespace, s.Network.Mode = "", v1.NetworkIntnet },
		"image":            func(s *providers.MachineSpec) { s.Image.Revision = "../x" },
		"no CPU":           func(s *providers.MachineSpec) { s.CPUs = 0 },
		"too many CPUs":    func(s *providers.MachineSpec) { s.CPUs = 17 },
		"memory":           func(s *providers.MachineSpec) { s.MemoryBytes-- },
		"disk":             func(s *providers.MachineSpec) { s.DiskBytes = -1 },
		"firmware":         func(s *providers.MachineSpec) { s.Firmware = "coreboot" },
		"mode":             func(s *providers.MachineSpec) { s.Network.Mode = "wifi" },
		"no bridge":        func(s *providers.MachineSpec) { s.Network.Mode = v1.NetworkBridged },
		"bridge":           func(s *providers.MachineSpec) { s.Network = v1.Network{Mode: v1.NetworkBridged, Bridge: "a/b"} },
		"dotted namespace": func(s *providers.MachineSpec) { s.Namespace = "a.b" },
		"long network name": func(s *providers.MachineSpec) {
			s.Network = v1.Network{Mode: v1.NetworkIntnet, Name: strings.Repeat("a", 64)}
		},
		"network name": func(s *providers.MachineSpec) { s.Network = v1.Network{Mode: v1.NetworkIntnet, Name: "a.b"} },
		"forward mode": func(s *providers.MachineSpec) { s.Network.PortForwards = []v1.PortForward{{Name: "a", GuestPort: 1}} },
		"forward names": func(s *providers.MachineSpec) {
			s.Network = nat(v1.PortForward{GuestPort: 1}, v1.PortForward{GuestPort: 2})
		},
		"forward ports": func(s *providers.MachineSpec) {
			s.Network = nat(v1.PortForward{Name: "a", GuestPort: 1, HostPort: 9}, v1.PortForward{Name: "b", GuestPort: 2, HostPort: 9, HostAddress: "127.0.0.1"})
		},
		"forward addresses": func(s *providers.MachineSpec) {
			s.Network = nat(v1.PortForward{Name: "a", GuestPort: 1, HostPort: 9}, v1.PortForward{Name: "b", GuestPort: 2, HostPort: 9, HostAddress: "0.0.0.0"})
		},
		"guest port": func(s *providers.MachineSpec) { s.Network = nat(v1.PortForward{Name: "a"}) },
		"host address": func(s *providers.MachineSpec) {
			s.Network = nat(v1.PortForward{Name: "a", GuestPort: 1, HostAddress: "x"})
		},
		"protocol": func(s *providers.MachineSpec) {
			s.Network = nat(v1.PortForward{Name: "a", GuestPort: 1, Protocol: "SCTP"})
		},
		"folder name": func(s *providers.MachineSpec) { s.SharedFolders = []v1.SharedFolder{{Name: "A", HostPath: "/srv"}} },
		"folder twice": func(s *providers.MachineSpec) {
			s.SharedFolders = []v1.SharedFolder{{Name: "a", HostPath: "/srv"}, {Name: "a", HostPath: "/srv"}}
		},
		"folder path": func(s *providers.MachineSpec) { s.SharedFolders = []v1.SharedFolder{{Name: "a", HostPath: "srv"}} },
		"folder mount": func(s *providers.MachineSpec) {
			s.SharedFolders = []v1.SharedFolder{{Name: "a", HostPath: "/srv", MountPath: "/a b"}}
		},
	} {
		s := fine
		edit(&s)
		if err := machinespec.Check(s, limits); !errors.Is(err, providers.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckDisk(t *testing.T) {
	img := providers.Image{VirtualSize: 1 << 20}
	for bytes, good := range map[int64]bool{0: true, 1<<20 - 1: false, 1 << 20: true, 1 << 21: true} {
		if err := machinespec.CheckDisk("machine x", bytes, img); (err == nil) != good || err != nil && !errors.Is(err, providers.ErrInvalid) {
			t.Errorf("%d bytes: %v", bytes, err)
		}
	}
}
