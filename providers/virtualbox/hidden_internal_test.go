package virtualbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// TestHidden reads a definition such as VirtualBox 7.2.22 writes.
func TestHidden(t *testing.T) {
	const definition = `<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.19-linux">
  <Machine uuid="{21111111-2222-4333-8444-555555555555}" name="c" OSType="Other">
    <ExtraData>
      <ExtraDataItem name="GUI/LastCloseAction" value="PowerOff"/>
    </ExtraData>
    <Snapshot uuid="{31111111-2222-4333-8444-555555555555}" name="clean">
      <Hardware><SharedFolders><SharedFolder name="in" hostPath="/" writable="true"/></SharedFolders></Hardware>
    </Snapshot>
    <Hardware>
      <SharedFolders>
        <SharedFolder name="in" hostPath="/srv/in" writable="false" autoMount="false"/>
        <SharedFolder name="out" hostPath="/srv/out" writable="true" autoMount="false"/>
      </SharedFolders>
    </Hardware>
  </Machine>
</VirtualBox>
`
	want := []v1.SharedFolder{{Name: "in", HostPath: "/srv/in"}, {Name: "out", HostPath: "/srv/out", ReadOnly: new(bool)}}
	path := filepath.Join(t.TempDir(), "c.vbox")
	for name, tc := range map[string]struct{ old, new, wrong string }{
		"as it should be":  {"", "", ""},
		"made writable":    {`/srv/in" writable="false"`, `/srv/in" writable="true"`, `"in"`},
		"made read-only":   {`/srv/out" writable="true"`, `/srv/out" writable="false"`, ""},
		"symbolic links":   {"GUI/LastCloseAction", "VBoxInternal2/SharedFoldersEnableSymlinksCreate/out", "SymlinksCreate/out"},
		"a device":         {"GUI/LastCloseAction", "VBoxInternal/Devices/x", "VBoxInternal/Devices/x"},
		"without anything": {definition, `<VirtualBox><Machine/></VirtualBox>`, ""},
	} {
		if err := os.WriteFile(path, []byte(strings.Replace(definition, tc.old, tc.new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		h, err := readDefinition(path)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wrong := ""
		for _, f := range h.flaws(want) {
			wrong += f.Detail
		}
		if (wrong == "") != (tc.wrong == "") || !strings.Contains(wrong, tc.wrong) {
			t.Errorf("%s: %q", name, wrong)
		}
	}
	for name, content := range map[string]string{"empty": "", "cut off": definition[:200], "no truth": strings.Replace(definition, `"false"`, `"perhaps"`, 1)} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readDefinition(path); err == nil {
			t.Errorf("%s: it is read", name)
		}
	}
	if _, err := readDefinition(path + "x"); !os.IsNotExist(err) {
		t.Errorf("one that is missing: %v", err)
	}
}
