package virtualbox

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

const (
	uidA = types.UID("0b7a3f8e-52c1-4d5c-9d0a-1c3c8f2a7e11")
	uidB = types.UID("1c8b4a9f-63d2-4e6d-8e1b-2d4d9a3b8f22")
)

// definitionWithSnapshots is one as VirtualBox 7.2 writes it, shortened.
const definitionWithSnapshots = `<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.20-linux">
  <Machine uuid="{11111111-1111-4111-8111-111111111111}" name="m" currentSnapshot="{817a4e5e-5919-4689-852a-4b1d71e41261}">
    <Snapshot uuid="{817a4e5e-5919-4689-852a-4b1d71e41261}" name="NAME" timeStamp="2026-11-22T21:02:58Z" stateFile="Snapshots/a.sav">
      <Description>DESCRIPTION</Description>
      <Hardware>
        <StorageControllers>
          <StorageController name="SATA" type="AHCI">
            <AttachedDevice type="HardDisk" port="0" device="0"><Image uuid="{ca1a85a3-cd64-4bb1-a9ae-df4eaededf1d}"/></AttachedDevice>
            <AttachedDevice type="DVD" port="1" device="0"><Image uuid="{ca1a85a3-cd64-4bb1-a9ae-df4eaededf1e}"/></AttachedDevice>
          </StorageController>
        </StorageControllers>
      </Hardware>
      <Snapshots>
        <Snapshot uuid="{b5b493e1-68da-444d-b29f-f12953877ec0}" name="somebody's">
          <Description>whatever</Description>
          <StorageControllers>
            <StorageController name="IDE">
              <AttachedDevice type="HardDisk" port="1" device="1"><Image uuid="{ce9b62df-471b-4938-a12f-c60936bd9f57}"/></AttachedDevice>
            </StorageController>
          </StorageControllers>
        </Snapshot>
      </Snapshots>
    </Snapshot>
    <Hardware/>
  </Machine>
</VirtualBox>`

// TestReadStates reads what was written into a definition.
func TestReadStates(t *testing.T) {
	n := note{Instance: "mine", ID: uidA, Memory: true, TakenAt: time.Date(2026, 11, 22, 21, 2, 58, 0, time.UTC), Hardware: "h", Network: "n", Engine: "e"}
	text, err := n.describe(providers.SnapshotSpec{Namespace: "ns", Name: "a\nname"})
	if err != nil || strings.Count(text, "\n") != 1 {
		t.Fatalf("described as %q, %v", text, err)
	}
	write := func(name, description string) string {
		path := filepath.Join(t.TempDir(), "m.vbox")
		text := strings.NewReplacer("NAME", name, "DESCRIPTION", description).Replace(definitionWithSnapshots)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	escaped := strings.ReplaceAll(text, `"`, "&quot;")
	for name, tc := range map[string]struct {
		name               string
		instance           providers.Instance
		committed, remnant bool
	}{
		"a snapshot":                      {snapshotName + string(uidA), "mine", true, false},
		"a remnant":                       {remnantName + string(uidA), "mine", false, true},
		"one that has another's UID":      {snapshotName + string(uidB), "mine", false, false},
		"another instance's":              {snapshotName + string(uidA), "other", false, false},
		"one that somebody gave its name": {"before the update", "mine", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(tc.name, escaped)
			all, err := readStates(path, tc.instance)
			if err != nil || len(all) != 2 {
				t.Fatalf("%+v, %v", all, err)
			}
			s, found := find(all, uidA)
			if found != tc.committed || len(remnantsOf(all, uidA)) == 1 != tc.remnant {
				t.Errorf("found %v, remnants %v", found, remnantsOf(all, uidA))
			}
			if found && (s.note != n || s.memory != filepath.Join(filepath.Dir(path), "Snapshots", "a.sav") || s.uuid != "817a4e5e-5919-4689-852a-4b1d71e41261") {
				t.Errorf("it is %+v", s)
			}
			if all[0].disks[place{"SATA", "0", "0"}] != "ca1a85a3-cd64-4bb1-a9ae-df4eaededf1d" || len(disksUnder(all)) != 2 ||
				all[1].disks[place{"IDE", "1", "1"}] == "" || all[1].committed() || all[1].remnant() {
				t.Errorf("the disks are %v and %v", all[0].disks, all[1].disks)
			}
		})
	}
	if all, err := readStates(write("x", "<"), "mine"); err == nil {
		t.Errorf("read from a damaged definition: %+v", all)
	}
}

// header is that of a VDI file.
func header(id, parent [16]byte, size uint64) (b [vdiHeader]byte) {
	binary.LittleEndian.PutUint32(b[0x40:], vdiSignature)
	binary.LittleEndian.PutUint32(b[0x44:], 0x00010001)
	binary.LittleEndian.PutUint64(b[0x170:], size)
	copy(b[0x188:], id[:])
	copy(b[0x1a8:], parent[:])
	return b
}

func TestReadVDI(t *testing.T) {
	id := [16]byte{0xa3, 0x85, 0x1a, 0xca, 0x64, 0xcd, 0xb1, 0x4b, 0xa9, 0xae, 0xdf, 0x4e, 0xae, 0xde, 0xdf, 0x1d}
	v, err := parseVDI("x", header(id, [16]byte{}, 5<<20))
	if err != nil || v.id != "ca1a85a3-cd64-4bb1-a9ae-df4eaededf1d" || v.parent != "" || v.size != 5<<20 {
		t.Errorf("%+v, %v", v, err)
	}
	if v, err := parseVDI("x", header(id, id, 1<<63)); err == nil {
		t.Errorf("a disk that is too large is %+v", v)
	}
	if v, err := parseVDI("x", [vdiHeader]byte{}); err == nil {
		t.Errorf("zeros are %+v", v)
	}
	dir := t.TempDir()
	b := header(id, [16]byte{1}, 1<<20)
	for name, content := range map[string][]byte{"good.vdi": b[:], "short.vdi": b[:100], "other.txt": b[:]} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := vdisIn(dir)
	if err != nil || len(all) != 1 || all["ca1a85a3-cd64-4bb1-a9ae-df4eaededf1d"].path != filepath.Join(dir, "good.vdi") {
		t.Errorf("in the folder are %v, %v", all, err)
	}
	if all, err := vdisIn(filepath.Join(dir, "absent")); err != nil || len(all) != 0 {
		t.Errorf("in no folder are %v, %v", all, err)
	}
}

func TestParentsFirst(t *testing.T) {
	all := map[string]vdi{"c": {id: "c", parent: "b"}, "b": {id: "b", parent: "a"}, "a": {id: "a", parent: "elsewhere"}, "d": {id: "d", parent: "b"}}
	sorted := parentsFirst(all)
	at := func(id string) int { return slices.IndexFunc(sorted, func(v vdi) bool { return v.id == id }) }
	if len(sorted) != 4 || at("a") > at("b") || at("b") > at("c") || at("b") > at("d") {
		t.Errorf("sorted as %v", sorted)
	}
	if sorted := parentsFirst(map[string]vdi{"a": {id: "a", parent: "b"}, "b": {id: "b", parent: "a"}}); len(sorted) != 0 {
		t.Errorf("disks that lie on each other are sorted as %v", sorted)
	}
}

func TestMayTake(t *testing.T) {
	whole := record{Hashes: providers.Hashes{Hardware: "h"}}
	for name, tc := range map[string]struct {
		power  providers.Power
		state  string
		memory bool
		record record
		busy   bool
	}{
		"off":                          {providers.PowerOff, statePoweroff, false, whole, false},
		"off, with memory":             {providers.PowerOff, statePoweroff, true, whole, true},
		"running, with memory":         {providers.PowerRunning, stateRunning, true, whole, false},
		"running, without":             {providers.PowerRunning, stateRunning, false, whole, false},
		"paused, with memory":          {providers.PowerPaused, "paused", true, whole, false},
		"saved, with memory":           {providers.PowerSaved, stateSaved, true, whole, false},
		"starting":                     {providers.PowerPaused, "starting", false, whole, true},
		"dead":                         {providers.PowerPaused, "gurumeditation", false, whole, true},
		"stopping":                     {providers.PowerStopping, "stopping", false, whole, true},
		"of which another is taken":    {providers.PowerRunning, "livesnapshotting", false, whole, true},
		"not configured to its end":    {providers.PowerOff, statePoweroff, false, record{}, true},
		"aborted, which is to be kept": {providers.PowerOff, "aborted", false, whole, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := machine{power: tc.power, record: tc.record, info: vboxmanage.Info{"VMState": tc.state}}
			err := mayTake(m, providers.SnapshotSpec{Memory: tc.memory})
			if tc.busy != errors.Is(err, providers.ErrBusy) || !tc.busy && err != nil {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestFits(t *testing.T) {
	s := state{memory: "/a.sav", note: note{Hardware: "h", Network: "n", Engine: "e"}}
	r := record{Engine: "e", Hashes: providers.Hashes{Hardware: "h", Network: "n", Seed: "another"}}
	if !fits(s, r) {
		t.Error("the memory of the same hardware does not fit")
	}
	for name, change := range map[string]func(*state, *record){
		"hardware":       func(_ *state, r *record) { r.Hashes.Hardware = "other" },
		"network":        func(_ *state, r *record) { r.Hashes.Network = "other" },
		"engine":         func(_ *state, r *record) { r.Engine = "other" },
		"without memory": func(s *state, _ *record) { s.memory = "" },
		"being changed":  func(s *state, r *record) { s.note.Hardware, r.Hashes.Hardware = "", "" },
	} {
		s, r := s, r
		change(&s, &r)
		if fits(s, r) {
			t.Errorf("%s: the memory fits", name)
		}
	}
}
