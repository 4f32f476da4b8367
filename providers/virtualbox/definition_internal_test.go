package virtualbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/beevik/etree"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

const cloneDisk = "62d5b890-7869-4126-80e0-ea8f470830ed"

// definition119 and definition120 are clones' definitions, shortened, in the two
// versions of the format that VirtualBox 7.2 chooses from.
const definition119 = `<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.19-linux">
  <Machine uuid="{11111111-2222-4333-8444-555555555555}" name="c" OSType="Linux_64" snapshotFolder="Snapshots">
    <Description>golden</Description>
    <Hardware>
      <Memory RAMSize="1024"/>
      <Firmware/>
      <BIOS><IOAPIC enabled="true"/></BIOS>
      <Network><Adapter slot="0" MACAddress="080027AEE765" type="82540EM"><NAT/></Adapter></Network>
      <StorageControllers>
        <StorageController name="SATA" type="AHCI" PortCount="2">
          <AttachedDevice type="HardDisk" hotpluggable="false" port="0" device="0"><Image uuid="{` + cloneDisk + `}"/></AttachedDevice>
        </StorageController>
      </StorageControllers>
      <CPU><PAE enabled="true"/></CPU>
    </Hardware>
  </Machine>
</VirtualBox>
`

const definition120 = `<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.20-linux">
  <Machine uuid="{11111111-2222-4333-8444-555555555555}" name="c" OSType="Linux_64" executionEngine="Recompiler">
    <Hardware>
      <Firmware><IOAPIC enabled="true"/></Firmware>
      <Network><Adapter slot="0" enabled="true" type="82540EM"><NAT/></Adapter><Adapter slot="1" type="82540EM"/></Network>
      <UART><Port slot="1" enabled="true" IOAddress="0x2f8" IRQ="3" path="/etc/elsewhere" hostMode="RawFile"/></UART>
      <SharedFolders><SharedFolder name="root" hostPath="/" writable="true" autoMount="false"/></SharedFolders>
      <StorageControllers>
        <StorageController name="SATA" type="AHCI" PortCount="2">
          <AttachedDevice type="HardDisk" port="0" device="0"><Image uuid="{` + cloneDisk + `}"/></AttachedDevice>
        </StorageController>
      </StorageControllers>
    </Hardware>
    <Platform architecture="x86"><CPU count="4"/></Platform>
  </Machine>
</VirtualBox>
`

func cloneFile(t *testing.T, definition string) (path string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "Snapshots"), 0o700); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "c.vbox")
	for name, content := range map[string]string{path: definition, filepath.Join(dir, "Snapshots", "{"+cloneDisk+"}.vdi"): ""} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func aPlan() plan {
	writable := false
	return plan{
		spec: providers.MachineSpec{
			MemoryBytes: 64 << 20, CPUs: 2, Namespace: "default", Name: `odd "<&>" name`,
			SharedFolders: []v1.SharedFolder{{Name: "in", HostPath: "/srv/a <&> \"b\""}, {Name: "out", HostPath: "/srv/out", ReadOnly: &writable}},
		},
		instance: "i", engine: EngineInterpreter, console: "/data/console <1>.log",
	}
}

func TestDefine(t *testing.T) {
	for name, definition := range map[string]string{"1.19": definition119, "1.20": definition120} {
		t.Run(name, func(t *testing.T) {
			path := cloneFile(t, definition)
			medium, file, err := aPlan().define(path, "/data/seed.iso")
			if err != nil || medium != cloneDisk || file != filepath.Join(filepath.Dir(path), "Snapshots", "{"+cloneDisk+"}.vdi") {
				t.Fatalf("%s %s %v", medium, file, err)
			}
			doc := etree.NewDocument()
			if err := doc.ReadFromFile(path); err != nil {
				t.Fatal(err)
			}
			for query, want := range map[string]string{
				"//Machine@executionEngine":                                   "Interpreter",
				"//Memory@RAMSize":                                            "64",
				"//CPU@count":                                                 "2",
				"//Paravirt@provider":                                         "None",
				"//UART/Port@slot":                                            "0",
				"//UART/Port@path":                                            "/data/console <1>.log",
				"//UART/Port@IOAddress":                                       "0x3f8",
				"//UART/Port@IOBase":                                          "0x3f8",
				"//SharedFolder[@name='in']@hostPath":                         `/srv/a <&> "b"`,
				"//SharedFolder[@name='in']@writable":                         "false",
				"//SharedFolder[@name='out']@writable":                        "true",
				"//MediaRegistry/DVDImages/Image@location":                    "/data/seed.iso",
				"//AttachedDevice[@type='DVD']@port":                          "1",
				"//Adapter[@slot='0']@enabled":                                "",
				"/VirtualBox@xmlns":                                           "http://www.virtualbox.org/",
				"//AttachedDevice[@type='HardDisk'][@port='0']/Image@uuid":    "{" + cloneDisk + "}",
				"/VirtualBox/Machine/Hardware/StorageControllers/*@PortCount": "2",
			} {
				at, attribute, _ := cutLast(query, "@")
				found := doc.FindElements(at)
				if len(found) != 1 || found[0].SelectAttrValue(attribute, "") != want {
					t.Errorf("%s: %d elements, wanted %q: %v", query, len(found), want, found)
				}
			}
			if n := len(doc.FindElements("//SharedFolder")); n != 2 {
				t.Errorf("%d shared folders", n)
			}
			seed := doc.FindElement("//DVDImages/Image").SelectAttrValue("uuid", "")
			if drive := doc.FindElement("//AttachedDevice[@type='DVD']/Image"); seed == "" || drive.SelectAttrValue("uuid", "") != seed {
				t.Errorf("the drive has %v, the seed is %s", drive, seed)
			}
			if text := doc.FindElement("//Description").Text(); text != aPlan().description() || len(doc.FindElements("//Description")) != 1 {
				t.Errorf("description %q", text)
			}
		})
	}
}

// cutLast cuts at the last separator.
func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// What is not as VirtualBox writes it for a golden machine of ours is left alone.
func TestDefineUnusual(t *testing.T) {
	disk := `<AttachedDevice type="HardDisk" hotpluggable="false" port="0" device="0"><Image uuid="{` + cloneDisk + `}"/></AttachedDevice>`
	for name, edit := range map[string]struct{ old, new string }{
		"no XML":              {definition119, "<VirtualBox><Machine>"},
		"nothing":             {definition119, ""},
		"another document":    {definition119, "<html/>"},
		"two machines":        {"</VirtualBox>", `<Machine uuid="{1}"/></VirtualBox>`},
		"no disk":             {disk, ""},
		"two disks":           {disk, disk + disk},
		"disk at port 1":      {`port="0"`, `port="1"`},
		"two controllers":     {"</StorageControllers>", `<StorageController name="IDE"/></StorageControllers>`},
		"media of its own":    {"<Hardware>", "<MediaRegistry/><Hardware>"},
		"disk elsewhere":      {cloneDisk, "11111111-7869-4126-80e0-ea8f470830ed"},
		"disk without a UUID": {cloneDisk, "../../../etc"},
		"EFI":                 {"<Firmware/>", `<Firmware type="EFI"/>`},
		"no APIC, and 2 CPUs": {`<IOAPIC enabled="true"/>`, ""},
		"no CPU":              {`<CPU><PAE enabled="true"/></CPU>`, ""},
		"no network":          {"<Network>", "<Network/><Network>"},
	} {
		t.Run(name, func(t *testing.T) {
			definition := strings.Replace(definition119, edit.old, edit.new, 1)
			path := cloneFile(t, definition)
			if _, _, err := aPlan().define(path, "/data/seed.iso"); !errors.Is(err, errUnusual) {
				t.Errorf("err = %v", err)
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != definition {
				t.Errorf("it was changed to %s (%v)", b, err)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		if _, _, err := aPlan().define(filepath.Join(t.TempDir(), "c.vbox"), ""); !errors.Is(err, errUnusual) {
			t.Errorf("err = %v", err)
		}
	})
}
