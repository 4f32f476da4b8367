package cloudinit

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
	"github.com/kdomanski/iso9660"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"
)

var full = Data{
	InstanceID:        "8b0c0f6e-5f6b-4e0c-9a51-0c5d0f5d9a10",
	Hostname:          "web-1",
	User:              "debian",
	SSHAuthorizedKeys: []string{`ssh-ed25519 AAAAC3Nza me@"home"`, "ssh-rsa AAAAB3 Jürgen's"},
	UserData:          "#!/bin/sh\necho hi\n",
	MACAddress:        "52:54:01:02:03:04",
}

func seed(t interface{ Fatal(...any) }, d Data) []byte {
	var b bytes.Buffer
	if err := Write(&b, d); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// readPrimary reads an image by the standard's own names, with a reader that
// is not ours.
func readPrimary(t *testing.T, image []byte) (string, map[string]string) {
	t.Helper()
	img, err := iso9660.OpenImage(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	label, err := img.Label()
	if err != nil {
		t.Fatal(err)
	}
	root, err := img.RootDir()
	if err != nil {
		t.Fatal(err)
	}
	children, err := root.GetChildren()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, c := range children {
		b, err := io.ReadAll(c.Reader())
		if err != nil {
			t.Fatal(err)
		}
		files[c.Name()] = string(b)
	}
	return label, files
}

// readJoliet reads an image by the names that guests see.
func readJoliet(t interface{ Fatal(...any) }, image []byte) map[string]string {
	svd := image[17*sector:]
	if svd[0] != 2 || string(svd[88:91]) != "%/E" {
		t.Fatal("sector 17 is no Joliet descriptor")
	}
	if label := string(svd[40:72]); label != "\x00c\x00i\x00d\x00a\x00t\x00a"+strings.Repeat("\x00", 20) {
		t.Fatal("the Joliet label is ", label)
	}
	at := binary.LittleEndian.Uint32(svd[156+2:])
	dir := image[at*sector : (at+1)*sector]
	files := map[string]string{}
	for len(dir) > 0 && dir[0] != 0 {
		r := dir[:dir[0]]
		dir = dir[dir[0]:]
		if r[25]&2 != 0 {
			continue
		}
		var units []uint16
		for b := r[33 : 33+int(r[32])]; len(b) > 1; b = b[2:] {
			units = append(units, binary.BigEndian.Uint16(b))
		}
		start, size := binary.LittleEndian.Uint32(r[2:])*sector, binary.LittleEndian.Uint32(r[10:])
		files[string(utf16.Decode(units))] = string(image[start : start+size])
	}
	return files
}

func TestSeedHoldsWhatItWasGiven(t *testing.T) {
	image := seed(t, full)
	files := readJoliet(t, image)

	var meta struct {
		InstanceID string   `json:"instance-id"`
		Hostname   string   `json:"local-hostname"`
		Keys       []string `json:"public-keys"`
	}
	if err := yaml.UnmarshalStrict([]byte(files["meta-data"]), &meta); err != nil {
		t.Fatalf("meta-data: %v\n%s", err, files["meta-data"])
	}
	if meta.InstanceID != full.InstanceID || meta.Hostname != full.Hostname || !cmp.Equal(meta.Keys, full.SSHAuthorizedKeys) {
		t.Errorf("meta-data = %+v", meta)
	}
	if files["user-data"] != full.UserData {
		t.Errorf("user-data = %q", files["user-data"])
	}
	if !strings.HasPrefix(files["vendor-data"], "#cloud-config\n") {
		t.Errorf("vendor-data = %q", files["vendor-data"])
	}
	var vendor struct {
		DisableRoot bool  `json:"disable_root"`
		DeleteKeys  bool  `json:"ssh_deletekeys"`
		Users       []any `json:"users"`
		BootCommand []any `json:"bootcmd"`
	}
	if err := yaml.UnmarshalStrict([]byte(files["vendor-data"]), &vendor); err != nil {
		t.Fatal(err)
	}
	if vendor.DisableRoot || !vendor.DeleteKeys || len(vendor.Users) != 2 || vendor.Users[0] != "default" || len(vendor.BootCommand) != 1 {
		t.Errorf("vendor-data = %+v", vendor)
	}
	if !strings.Contains(files["network-config"], full.MACAddress) {
		t.Errorf("network-config = %q", files["network-config"])
	}

	label, primary := readPrimary(t, image)
	if label != "cidata" {
		t.Errorf("label = %q, want cidata", label)
	}
	for short, long := range map[string]string{"META_DAT": "meta-data", "USER_DAT": "user-data", "VENDOR_D": "vendor-data", "NETWORK_": "network-config"} {
		if got := primary[short+"."] + primary[short]; got != files[long] {
			t.Errorf("%s and %s differ: %q, %q (names %v)", short, long, got, files[long], primary)
		}
	}
}

func TestDefaults(t *testing.T) {
	files := readJoliet(t, seed(t, Data{InstanceID: "a", Hostname: "123"}))
	vendor, rest, _ := strings.Cut(files["vendor-data"], "bootcmd:\n")
	if vendor != "#cloud-config\n" || !strings.HasPrefix(rest, "- - cloud-init-per\n  - instance\n") || !strings.HasSuffix(rest, "\ndisable_root: false\nssh_deletekeys: true\n") {
		t.Errorf("vendor-data = %q", files["vendor-data"])
	}
	delete(files, "vendor-data")
	want := map[string]string{
		"meta-data":      "instance-id: a\nlocal-hostname: \"123\"\n",
		"user-data":      "#cloud-config\n{}\n",
		"network-config": "ethernets: {}\nversion: 2\n",
	}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	files = readJoliet(t, seed(t, Data{InstanceID: "a", NetworkConfig: "version: 1\n", User: "root", SSHAuthorizedKeys: []string{"k"}}))
	if files["network-config"] != "version: 1\n" || strings.Contains(files["vendor-data"], "users") {
		t.Errorf("files = %q", files)
	}
}

func TestRefused(t *testing.T) {
	for name, d := range map[string]Data{
		"two lines in a key": {InstanceID: "a", SSHAuthorizedKeys: []string{"ssh-rsa A\nssh-rsa B"}},
		"hostname injection": {InstanceID: "a", Hostname: "x\npublic-keys: [evil]"},
	} {
		if err := Write(io.Discard, d); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSameDataSameBytes(t *testing.T) {
	if !bytes.Equal(seed(t, full), seed(t, full)) {
		t.Error("two seeds of the same data differ")
	}
}

func TestUserDataOfAnySizeIsUnchanged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := string(rapid.SliceOfN(rapid.Byte(), 1, 3*sector).Draw(t, "data"))
		if got := readJoliet(t, seed(t, Data{InstanceID: "a", UserData: data}))["user-data"]; got != data {
			t.Fatalf("user-data of %d bytes came back with %d", len(data), len(got))
		}
	})
}

// TestIsoinfo asks a reader of the standard, where one is installed.
func TestIsoinfo(t *testing.T) {
	program, err := exec.LookPath("isoinfo")
	if err != nil {
		t.Skip("isoinfo is not installed")
	}
	path := t.TempDir() + "/seed.iso"
	if err := os.WriteFile(path, seed(t, full), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, "-J", "-x", "/user-data", "-i", path).Output()
	if err != nil || string(out) != full.UserData {
		t.Errorf("isoinfo reads %q, %v", out, err)
	}
	out, err = exec.Command(program, "-d", "-i", path).Output()
	if err != nil || !strings.Contains(string(out), "Volume id: cidata") || !strings.Contains(string(out), "Joliet with UCS level 3 found") {
		t.Errorf("isoinfo -d: %s, %v", out, err)
	}
}
