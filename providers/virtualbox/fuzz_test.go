package virtualbox

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// FuzzDefinition reads definitions of machines as VirtualBox writes them, into
// which guests may write properties.
func FuzzDefinition(f *testing.F) {
	const instance = providers.Instance("11111111-2222-3333-4444-555555555555")
	f.Add([]byte(`<VirtualBox xmlns="http://www.virtualbox.org/"><Machine uuid="{a}"><Snapshot uuid="{b}" name="s" stateFile="x.sav"><Description>a
{"instance":"` + string(instance) + `","id":"6253d238-8ffa-4c3a-ad45-3cb04de2eed4"}</Description><Hardware><StorageControllers><StorageController name="SATA"><AttachedDevice type="HardDisk" port="0" device="0"><Image uuid="{c}"/></AttachedDevice></StorageController></StorageControllers></Hardware><Snapshots><Snapshot name="t"/></Snapshots></Snapshot><ExtraData><ExtraDataItem name="VBoxInternal/x"/></ExtraData></Machine></VirtualBox>`))
	f.Add([]byte(`<!DOCTYPE a [<!ENTITY b "c">]><VirtualBox>&b;</VirtualBox>`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(dir, "a.vbox")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		states, err := readStates(path, instance)
		for _, s := range states {
			if err != nil || s.memory != "" && !filepath.IsAbs(s.memory) || s.note.ID != "" && s.note.Instance != instance {
				t.Fatalf("%+v, %v", s, err)
			}
		}
		_, _ = readDefinition(path)
		_, _ = readFirstDisk(path)
	})
}

// FuzzVDIHeader: a header that is read has a size that is one.
func FuzzVDIHeader(f *testing.F) {
	f.Add(make([]byte, vdiHeader))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var b [vdiHeader]byte
		copy(b[:], raw)
		if v, err := parseVDI("x", b); err == nil && v.size < 0 {
			t.Fatalf("%+v", v)
		}
	})
}

// FuzzClaims: guest properties, which a guest sets as it likes, become a bounded
// number of addresses and nothing else.
func FuzzClaims(f *testing.F) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Add("/VirtualBox/GuestInfo/Net/0/V4/IP = '192.0.2.7' @ 2026-01-02T03:04:06.000Z\n")
	f.Add("/VirtualBox/GuestInfo/Net/0/V6/IP = 'fe80::1%\x1b' @ 2026-01-02T03:04:06Z TRANSIENT\n")
	f.Fuzz(func(t *testing.T, said string) {
		claims := claimed(said, since)
		if len(claims) > maxAddresses {
			t.Fatalf("%d addresses", len(claims))
		}
		var list []v1.GuestAddress
		for _, a := range claims {
			list = appendAddress(list, a, v1.AddressFromAgent)
		}
		for _, a := range list {
			if ip, err := netip.ParseAddr(a.IP); err != nil || !ip.IsGlobalUnicast() || ip.Zone() != "" {
				t.Fatalf("the address %q, %v", a.IP, err)
			}
		}
	})
}

// FuzzAnswers reads what VBoxManage prints of ISOs, networks and port forwards.
func FuzzAnswers(f *testing.F) {
	f.Add("OSTypeId=\"Debian_64\"\nIsInstallSupported=\"on\"\n")
	f.Add("ssh,tcp,127.0.0.1,2222,,22")
	f.Add("intnet.default.lab")
	f.Fuzz(func(t *testing.T, said string) {
		if d, ok := parseDetected([]byte(said)); ok && d.supported && d.system == "" {
			t.Fatal("an installer of no system is supported")
		}
		if fwd, ok := parseRule(said); ok && (fwd.HostPort < 0 || fwd.HostPort > 65535 || fwd.GuestPort < 0 || fwd.GuestPort > 65535) {
			t.Fatalf("%+v", fwd)
		}
		if n, ok := parseNetwork(said); ok && n.id() != said {
			t.Fatalf("%q is taken for %q", said, n.id())
		}
	})
}
