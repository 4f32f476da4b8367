package domain

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirtxml"
	"pgregory.net/rapid"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func spec(mode v1.NetworkMode) Spec {
	writable := false
	m := providers.MachineSpec{
		ID: "6253d238-8ffa-4c3a-ad45-3cb04de2eed4", Namespace: "team", Name: "web",
		Image: providers.ImageRef{UID: "2f1c3a52-7a1e-4c2e-8f57-5e4f6d0c9b1a", Revision: "0123456789abcdef"},
		CPUs:  2, MemoryBytes: 256 << 20, Firmware: v1.FirmwareBIOS, Network: v1.Network{Mode: mode},
		SharedFolders: []v1.SharedFolder{{Name: "in", HostPath: "/srv/in"}, {Name: "out", HostPath: "/srv/out", ReadOnly: &writable}},
	}
	if mode == v1.NetworkBridged {
		m.Network.Bridge = "br0"
	}
	return Spec{
		MachineSpec: m,
		Record: Record{
			Instance: "instance-1", Owner: m.ID, Namespace: m.Namespace, Name: m.Name, Image: m.Image, Hashes: m.Hashes(), Network: m.Network,
		},
		Accelerator: TCG, LinkIsBridge: true,
		Disk: "/data/disk.qcow2", Below: []string{"/data/base.qcow2"}, Seed: "/data/seed.iso", Console: "/data/console.log",
	}
}

func build(t interface{ Fatal(...any) }, s Spec) string {
	text, err := Build(s)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestGolden(t *testing.T) {
	efi := spec(v1.NetworkNone)
	efi.Firmware, efi.Accelerator, efi.SharedFolders = v1.FirmwareEFI, KVM, nil
	install := spec(v1.NetworkNone)
	install.Below, install.SharedFolders, install.Installer = nil, nil, &Installer{ISO: "/data/install.iso", Kernel: "/data/kernel", Initrd: "/data/initrd", Cmdline: "auto"}
	fromCD := spec(v1.NetworkNone)
	fromCD.Below, fromCD.SharedFolders, fromCD.Firmware, fromCD.Installer = nil, nil, v1.FirmwareEFI, &Installer{ISO: "/data/install.iso"}
	macvtap := spec(v1.NetworkBridged)
	macvtap.LinkIsBridge = false
	for name, s := range map[string]Spec{
		"none": spec(v1.NetworkNone), "intnet": spec(v1.NetworkIntnet), "hostonly": spec(v1.NetworkHostOnly),
		"nat": spec(v1.NetworkNAT), "bridged": spec(v1.NetworkBridged), "macvtap": macvtap, "efi-kvm": efi,
		"install": install, "install-cd-efi": fromCD,
	} {
		path := filepath.Join("testdata", name+".xml")
		got := build(t, s) + "\n"
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestParseReadsWhatBuildWrites(t *testing.T) {
	s := spec(v1.NetworkNAT)
	got, err := Parse(build(t, s))
	if err != nil {
		t.Fatal(err)
	}
	s.Record.Made = madeOf(s)
	want := Live{
		Record: s.Record, Accelerator: TCG, Outline: got.Outline, // tested with what is compared by it
		Shares:     map[string]bool{"in": true, "out": false},
		Folders:    []string{"/srv/in", "/srv/out"},
		Below:      s.Below,
		Terminal:   true,
		Interfaces: []Interface{{Kind: "network", MAC: providers.MACAddress(s.ID, 0), Network: "sandboxd-instance-nat", Tap: "stn8j69nme7o46t"}},
	}
	want.Interfaces[0].Tap = got.Interfaces[0].Tap // derived; its form is tested where it is made
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRecordSurvivesAnyText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Record{
			Instance: "i", Owner: "o",
			Name:    rapid.StringMatching(`[ -~\n\t<>&"'é世]{0,40}`).Draw(t, "name"),
			Network: v1.Network{Bridge: rapid.StringMatching(`[ -~]{0,15}`).Draw(t, "bridge")},
		}
		full, err := r.Element(false)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ReadRecord("<other xmlns='urn:x'><machine>{}</machine></other>" + full); err != nil || !cmp.Equal(got, r) {
			t.Fatalf("%s reads as %+v, %v", full, got, err)
		}
		bare, err := r.Element(true)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ReadBare(bare); err != nil || !cmp.Equal(got, r) {
			t.Fatalf("%s reads as %+v, %v", bare, got, err)
		}
	})
}

// TestPathsComeBackAsTheyWere: QEMU opens the path that was checked, or the
// path is refused.
func TestPathsComeBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		path := "/" + rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(t, "path")
		if !Writable(path) {
			return
		}
		s := spec(v1.NetworkNone)
		s.SharedFolders = []v1.SharedFolder{{Name: "x", HostPath: path}}
		var d libvirtxml.Domain
		if err := d.Unmarshal(build(t, s)); err != nil {
			t.Fatal(err)
		}
		if got := d.Devices.Filesystems[0].Source.Mount.Dir; got != path {
			t.Fatalf("%q became %q", path, got)
		}
	})
	for _, path := range []string{"/a\x01b", "/a\xffb", "/a\uffffb", "/a\x00"} {
		if Writable(path) {
			t.Errorf("%q passes", path)
		}
	}
}

func TestMachinesOfOthers(t *testing.T) {
	s := spec(v1.NetworkNone)
	ours := build(t, s)
	other := s
	other.Record.Owner = "7253d238-8ffa-4c3a-ad45-3cb04de2eed4"
	for name, tc := range map[string]struct {
		text string
		want error
	}{
		"no metadata":          {"<domain type='kvm'><name>x</name></domain>", ErrNoRecord},
		"metadata of others":   {"<domain><metadata><a:machine xmlns:a='urn:a'>{}</a:machine></metadata></domain>", ErrNoRecord},
		"no JSON":              {"<domain><metadata><s:machine xmlns:s='" + Namespace + "'>x</s:machine></metadata></domain>", ErrBadRecord},
		"an empty record":      {"<domain><metadata><s:machine xmlns:s='" + Namespace + "'>{}</s:machine></metadata></domain>", ErrBadRecord},
		"another machine's":    {build(t, other), ErrBadRecord},
		"the same, unmodified": {ours, nil},
	} {
		if _, err := Parse(tc.text); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	if _, err := Parse("<domain"); err == nil {
		t.Error("broken XML parses")
	}
}

func TestDevicesThatReachOutAreSeen(t *testing.T) {
	text := build(t, spec(v1.NetworkNone))
	for name, devices := range map[string][]string{
		"a device of the host":              {`<hostdev mode="subsystem" type="usb"><source><vendor id="0x1"/><product id="0x2"/></source></hostdev>`},
		"a vsock device":                    {`<vsock model="virtio"><cid auto="yes"/></vsock>`},
		"a redirected USB device":           {`<redirdev bus="usb" type="spicevmc"/>`},
		"memory that it shares with others": {`<shmem name="x"><model type="ivshmem-plain"/></shmem>`},
		"a display":                         {`<graphics type="vnc" port="-1"/>`},
		"a line to something else": {
			`<serial type="tcp"><source mode="connect" host="192.0.2.1" service="1"/><protocol type="raw"/></serial>`,
			`<parallel type="udp"><source mode="connect" host="192.0.2.1" service="1"/></parallel>`,
			`<console type="unix"><source mode="bind" path="/x"/></console>`,
			`<channel type="unix"><source mode="bind" path="/x"/><target type="virtio" name="another"/></channel>`,
			`<channel type="spicevmc"><target type="virtio" name="com.redhat.spice.0"/></channel>`,
		},
	} {
		for _, device := range devices {
			got, err := Parse(strings.Replace(text, "</devices>", device+"</devices>", 1))
			if err != nil || !cmp.Equal(got.Extra, []string{name}) {
				t.Errorf("%s: %q, %v", device, got.Extra, err)
			}
		}
	}
	args := `<qemu:commandline xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0"><qemu:arg value="-netdev"/></qemu:commandline>`
	if got, err := Parse(strings.Replace(text, "</domain>", args+"</domain>", 1)); err != nil || len(got.Extra) != 1 {
		t.Errorf("QEMU's arguments: %q, %v", got.Extra, err)
	}
}
