package virtualbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// machineScript adds one machine to hostOnlyScript, as VirtualBox shows it: a file.
const machineScript = `"showvminfo "*) cat vm ;;
"modifyvm "*)
	[ "$3" = --host-only-adapter1 ] || refuse "$*"
	grep -q '^VMState="saved"' vm || refuse 'not saved'
	sed -i "s/^hostonlyadapter1=.*/hostonlyadapter1=\"$4\"/" vm ;;
"startvm "*)
	a=$(sed -n 's/^hostonlyadapter1="\(.*\)"/\1/p' vm)
	[ -e "adapters/$a" ] || refuse "there is no $a"
	sed -i 's/^VMState="saved"/VMState="running"/' vm ;;
"discardstate "*) sed -i 's/^VMState="saved"/VMState="poweroff"/' vm ;;
`

// suspended makes a saved machine on a host-only network whose adapter is there.
func suspended(t *testing.T) (*scripted, record) {
	t.Helper()
	s := newScripted(t, "linux")
	const last = `*) echo "VBoxManage: error: unexpected`
	script := strings.Replace(hostOnlyScript, last, machineScript+last, 1)
	r := s.machine(t)
	r.SharedFolders, r.Hashes = nil, providers.Hashes{Hardware: "h", Network: "n", Forwards: "f", Seed: "s"}
	if err := s.writeRecord(r); err != nil {
		t.Fatal(err)
	}
	adapter := s.join(t, r)
	dir := filepath.Join(s.data.MachineDir(r.ID), r.VM)
	info, _, _ := sound(r.Network.Mode)
	info["VMState"], info["hostonlyadapter1"], info["macaddress1"] = stateSaved, adapter, macArgument(r.ID)
	info["name"], info["uartmode1"], info["CfgFile"] = r.VM, "file,"+s.data.console(r.ID), filepath.Join(dir, r.VM+".vbox")
	info["SATA-0-0"], info["SATA-1-0"] = filepath.Join(dir, "disk.vdi"), filepath.Join(dir, seedName)
	delete(info, "SharedFolderNameMachineMapping1")
	delete(info, "SharedFolderPathMachineMapping1")
	var shown strings.Builder
	for _, key := range sortedKeys(info) {
		fmt.Fprintf(&shown, "%s=%q\n", key, info[key])
	}
	for path, content := range map[string]string{
		filepath.Join(s.dir, "VBoxManage"): script, filepath.Join(s.dir, "vm"): shown.String(),
		info["SATA-0-0"]: "", info["CfgFile"]: `<VirtualBox><Machine uuid="{` + string(r.ID) + `}"><Hardware/></Machine></VirtualBox>`,
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return s, r
}

// TestSuspendedOverReboot: after a restart of the host its host-only adapters are gone,
// and others may have come by their names. What a saved machine has in its memory is
// kept: when it goes on it is connected to an adapter of its own.
func TestSuspendedOverReboot(t *testing.T) {
	remove := func(t *testing.T, s *scripted) {
		for _, name := range s.names(t, "adapters") {
			if err := os.Remove(filepath.Join(s.dir, "adapters", name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	write := func(t *testing.T, path, content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		change  func(*testing.T, *scripted, record)
		remedy  providers.Remedy // none where nothing is to be seen
		adapter string
	}{
		"nothing":   {func(*testing.T, *scripted, record) {}, "", "vboxnet0"},
		"all gone":  {func(t *testing.T, s *scripted, _ record) { remove(t, s) }, providers.RemedyOff, "vboxnet0"},
		"not noted": {func(t *testing.T, s *scripted, _ record) { remove(t, s); removeAll(t, s.data.networks()) }, providers.RemedyOff, "vboxnet0"},
		"another has its name": {func(t *testing.T, s *scripted, _ record) {
			write(t, filepath.Join(s.dir, "adapters", "vboxnet0"), "10.9.9.1\n")
		}, "", "vboxnet1"},
		"a start that was cut off while the adapter was made": {func(t *testing.T, s *scripted, r record) {
			remove(t, s)
			write(t, filepath.Join(s.dir, "adapters", "vboxnet0"), "10.9.9.1\n")
			s.join(t, r)
			s.cutOff(t, "made", time.Hour)
		}, providers.RemedyOff, "vboxnet2"}, // whose the first one is, nobody knows
		"a start that was cut off once it was made": {func(t *testing.T, s *scripted, r record) {
			write(t, filepath.Join(s.dir, "adapters", "vboxnet0"), "10.9.9.1\n")
			s.join(t, r)
		}, providers.RemedyEnsure, "vboxnet1"},
	} {
		t.Run(name, func(t *testing.T) {
			s, r := suspended(t)
			tc.change(t, s, r)
			m, err := s.GetMachine(t.Context(), r.ID)
			if err != nil {
				t.Fatal(err)
			}
			worst, _ := providers.Worst(m.Drift)
			if m.Power != providers.PowerSaved || worst.Remedy != tc.remedy {
				t.Errorf("it is %s, %+v", m.Power, m.Drift)
			}
			if err := s.Start(t.Context(), r.ID); err != nil {
				t.Fatal(err)
			}
			if m, err = s.GetMachine(t.Context(), r.ID); err != nil || m.Power != providers.PowerRunning || len(m.Drift) > 0 {
				t.Errorf("started: %+v, %v", m, err)
			}
			if vm := s.content(t, "vm"); !strings.Contains(vm, `hostonlyadapter1="`+tc.adapter+`"`) {
				t.Errorf("it is not on %s:\n%s", tc.adapter, vm)
			}
		})
	}
}

func removeAll(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOneOfTwoDisks: a machine of which one disk was taken out is not started without
// it, and what is left of it is not removed as a remnant of ours.
func TestOneOfTwoDisks(t *testing.T) {
	s, r := suspended(t)
	r.Disks, r.DiscardOnStop = 2, true
	if err := s.writeRecord(r); err != nil {
		t.Fatal(err)
	}
	second := filepath.Join(s.data.MachineDir(r.ID), r.VM, "second.vdi")
	for path, content := range map[string]string{
		filepath.Join(s.dir, "vm"): strings.Replace(s.content(t, "vm"), `"saved"`, `"poweroff"`, 1), second: "",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, do := range map[string]func() error{
		"start": func() error { return s.Start(t.Context(), r.ID) },
		"reset": func() error { return s.Reset(t.Context(), r.ID) },
	} {
		if err := do(); !errors.Is(err, providers.ErrInvalid) || providers.ReasonOf(err) != v1.ReasonDiskChanged {
			t.Errorf("%s: %v", name, err)
		}
	}
	m, err := s.look(t.Context(), r.ID)
	if err == nil {
		err = s.closeStrays(t.Context(), r, m)
	}
	if _, gone := os.Stat(second); err != nil || gone != nil {
		t.Errorf("its disk is a stray: %v, %v", err, gone)
	}
}
