package virtualbox

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// made is a sound machine whose record says what it was made with.
func made(mode v1.NetworkMode) (vboxmanage.Info, record, string) {
	info, r, network := sound(mode)
	r.VM, r.CPUs, r.MemoryBytes = "default.web.7ff09921", 2, 256<<20+4096
	r.Hashes = providers.Hashes{Hardware: "h", Network: "n", Forwards: "f", Seed: "s"}
	info["name"], info["memory"], info["cpus"], info["cableconnected1"] = r.VM, "256", "2", "on"
	return info, r, network
}

// TestDrifts changes one thing at a time of machines that are as they were made.
func TestDrifts(t *testing.T) {
	const (
		definition, network, disk = v1.ReasonDefinitionChanged, v1.ReasonNetworkChanged, v1.ReasonDiskChanged
		ensure, off, powerOff     = providers.RemedyEnsure, providers.RemedyOff, providers.RemedyPowerOff
	)
	set := func(pairs ...string) func(vboxmanage.Info) {
		return func(i vboxmanage.Info) {
			for n := 0; n < len(pairs); n += 2 {
				i[pairs[n]] = pairs[n+1]
			}
		}
	}
	for name, tc := range map[string]struct {
		mode   v1.NetworkMode
		change func(vboxmanage.Info)
		reason string
		// The remedies of a machine that is on, saved and off.
		remedies [3]providers.Remedy
		says     string
	}{
		"memory":        {"", set("memory", "512"), definition, [3]providers.Remedy{off, off, off}, "its memory is 512 MiB, and was made as 256 MiB"},
		"cpus":          {"", set("cpus", "1"), definition, [3]providers.Remedy{off, off, off}, "it has 1 CPUs, and was made with 2"},
		"name":          {"", set("name", "mine\n\x1b[2J"), definition, [3]providers.Remedy{off, off, off}, `its name is "mine\n\x1b[2J", and was made as "default.web.7ff09921"`},
		"usb":           {"", set("usb", "on"), definition, [3]providers.Remedy{powerOff, powerOff, off}, "usb"},
		"usb 3":         {"", set("xhci", "on"), definition, [3]providers.Remedy{powerOff, powerOff, off}, "xhci"},
		"audio":         {"", set("audio", "pulse"), definition, [3]providers.Remedy{powerOff, powerOff, off}, `"pulse"`},
		"clipboard":     {"", set("clipboard", "bidirectional"), definition, [3]providers.Remedy{ensure, off, ensure}, "clipboard"},
		"drag and drop": {"", set("draganddrop", "hosttoguest"), definition, [3]providers.Remedy{ensure, off, ensure}, "draganddrop"},
		"display":       {"", set("vrde", "on"), definition, [3]providers.Remedy{ensure, ensure, ensure}, "vrde"},
		"serial port":   {"", set("uartmode1", "server,/tmp/pipe"), definition, [3]providers.Remedy{powerOff, powerOff, off}, "/tmp/pipe"},
		"serial port 2": {"", set("uart2", "0x02f8,3"), definition, [3]providers.Remedy{powerOff, powerOff, off}, "uart2"},
		"no folder": {"", func(i vboxmanage.Info) {
			delete(i, "SharedFolderNameMachineMapping1")
			delete(i, "SharedFolderPathMachineMapping1")
		}, definition, [3]providers.Remedy{off, off, off}, `"in"`},
		"another folder":  {"", set("SharedFolderPathMachineMapping1", "/etc"), definition, [3]providers.Remedy{powerOff, powerOff, off}, "/etc"},
		"one folder more": {"", set("SharedFolderNameTransientMapping1", "etc", "SharedFolderPathTransientMapping1", "/etc"), definition, [3]providers.Remedy{powerOff, powerOff, off}, `"etc"`},
		"CD":              {"", set("SATA-2-0", "/home/me/a.iso", "SATA-tempeject-2-0", "off"), definition, [3]providers.Remedy{powerOff, powerOff, off}, "/home/me/a.iso"},
		"disk":            {"", set("SATA-2-0", "/home/me/a.vdi", "SATA-ImageUUID-2-0", cloneDisk), disk, [3]providers.Remedy{powerOff, powerOff, off}, "/home/me/a.vdi"},
		"second card":     {"", set("nic2", "nat"), network, [3]providers.Remedy{powerOff, powerOff, off}, "network card 2"},
		"last card":       {"", set("nic8", "bridged"), network, [3]providers.Remedy{powerOff, powerOff, off}, "network card 8"},
		"another kind":    {v1.NetworkNAT, set("nic1", "bridged"), network, [3]providers.Remedy{powerOff, powerOff, off}, `"bridged"`},
		"another net":     {v1.NetworkIntnet, set("intnet1", "other"), network, [3]providers.Remedy{powerOff, powerOff, off}, `"other"`},
		"another link":    {v1.NetworkBridged, set("bridgeadapter1", "eth1"), network, [3]providers.Remedy{powerOff, powerOff, off}, `"eth1"`},
		"adapter":         {v1.NetworkHostOnly, set("hostonlyadapter1", "vboxnet9"), network, [3]providers.Remedy{powerOff, ensure, off}, `"vboxnet9"`},
		"address":         {v1.NetworkNAT, set("macaddress1", "080027000001"), network, [3]providers.Remedy{powerOff, powerOff, off}, "080027000001"},
		"TFTP":            {v1.NetworkNAT, set("enableTFTP", "1"), network, [3]providers.Remedy{powerOff, powerOff, off}, "TFTP"},
		"forward":         {v1.NetworkNAT, set("Forwarding(1)", "x,tcp,,80,,80"), network, [3]providers.Remedy{ensure, ensure, ensure}, "x,tcp,,80,,80"},
		"cable":           {v1.NetworkNAT, set("cableconnected1", "off"), network, [3]providers.Remedy{ensure, ensure, ensure}, "cable"},
	} {
		mode := v1.NetworkNone
		if tc.mode != "" {
			mode = tc.mode
		}
		info, r, connected := made(mode)
		tc.change(info)
		found := flawsShown(info, r, connected, testConsole)
		if len(found) != 1 {
			t.Errorf("%s: found %+v", name, found)
			continue
		}
		for n, power := range []providers.Power{providers.PowerRunning, providers.PowerSaved, providers.PowerOff} {
			d := found[0].at(power)
			if d.Reason != tc.reason || d.Remedy != tc.remedies[n] || !strings.Contains(d.Detail, tc.says) || d.Advice != "" {
				t.Errorf("%s, %s: %+v", name, power, d)
			}
		}
		m := machine{id: testID, power: providers.PowerRunning}
		if steps := mending(found, m); (len(steps) == 1) != (found[0].live != nil) {
			t.Errorf("%s: put right while it runs by %v", name, steps)
		}
	}
}

// TestNoDrift: what VirtualBox fills in by itself, what it tells in another way when it
// was started anew, and what a guest may do, is no drift.
func TestNoDrift(t *testing.T) {
	for name, change := range map[string]func(vboxmanage.Info, *record){
		"nothing": func(vboxmanage.Info, *record) {},
		"a new VBoxSVC": func(i vboxmanage.Info, _ *record) {
			i["localhostReachable"], i["VMStateChangeTime"] = "1", "2026-11-23T00:12:49"
		},
		"somebody who types": func(i vboxmanage.Info, _ *record) { i["uartmode1"] = ttyMode(testConsole) },
		"an ejected seed":    func(i vboxmanage.Info, _ *record) { i["SATA-1-0"] = emptyDrive },
		"an earlier version": func(i vboxmanage.Info, r *record) { i["memory"], i["cpus"], r.MemoryBytes, r.CPUs = "1", "9", 0, 0 },
		"an older VirtualBox": func(i vboxmanage.Info, _ *record) {
			delete(i, "memory")
			delete(i, "cpus")
			delete(i, "cableconnected1")
		},
		"no card and no cable": func(i vboxmanage.Info, _ *record) { i["cableconnected9"] = "off" },
		"other firmware":       func(i vboxmanage.Info, _ *record) { i["bootmenu"], i["vram"], i["chipset"] = "disabled", "16", "ich9" },
	} {
		for _, mode := range modes {
			info, r, network := made(mode)
			info["VMState"] = statePoweroff
			change(info, &r)
			if found := flawsShown(info, r, network, testConsole); len(found) > 0 {
				t.Errorf("%s, %s: %+v", name, mode, found)
			}
		}
	}
	info, r, network := made(v1.NetworkNAT)
	info["Forwarding(1)"], r.Hashes.Forwards = "x,tcp,,80,,80", ""
	if found := flawsShown(info, r, network, testConsole); len(found) != 1 || !found[0].unfinished {
		t.Errorf("a change of ours that was cut off: %+v", found)
	}
}

// TestDiskFlaws: what is said of the files of a machine's disks.
func TestDiskFlaws(t *testing.T) {
	const dir = "/data/machines/" + testID
	info, r, _ := made(v1.NetworkNone)
	top := dir + "/web/Snapshots/{" + cloneDisk + "}.vdi"
	for name, tc := range map[string]struct {
		change func(vboxmanage.Info, *shelf, *record)
		reason string
		remedy providers.Remedy
		says   string
	}{
		"as it was made":       {func(vboxmanage.Info, *shelf, *record) {}, "", "", ""},
		"of others altogether": {func(_ vboxmanage.Info, s *shelf, _ *record) { s.below, s.open = nil, true }, "", "", ""},
		"its file":             {func(_ vboxmanage.Info, s *shelf, _ *record) { s.exists = func(p string) bool { return p != top } }, v1.ReasonDiskLost, providers.RemedyNone, top},
		"a file below it":      {func(_ vboxmanage.Info, s *shelf, _ *record) { delete(s.own, "under") }, v1.ReasonDiskLost, providers.RemedyNone, "under"},
		"the image's file":     {func(_ vboxmanage.Info, s *shelf, _ *record) { s.below, s.lost = nil, "/data/images/x/disk.vdi" }, v1.ReasonDiskLost, providers.RemedyNone, "/data/images/x/disk.vdi"},
		"taken out": {func(i vboxmanage.Info, _ *shelf, r *record) {
			i["SATA-0-0"], r.Disk = noDrive, top
			delete(i, "SATA-ImageUUID-0-0")
		}, v1.ReasonDiskChanged, providers.RemedyOff, "not attached"},
		"swapped":               {func(i vboxmanage.Info, _ *shelf, r *record) { i["SATA-0-0"], r.Disk = "/home/me/a.vdi", top }, v1.ReasonDiskChanged, providers.RemedyOff, "not attached"},
		"taken out and unnoted": {func(i vboxmanage.Info, _ *shelf, r *record) { i["SATA-0-0"], r.Disk = noDrive, "/old" }, v1.ReasonDiskChanged, providers.RemedyOff, "not attached"},
		"taken out and noted when a snapshot was taken of it": {func(i vboxmanage.Info, s *shelf, r *record) {
			i["SATA-0-0"], r.Disk, s.states = noDrive, dir+"/web/under.vdi", []state{{disks: map[place]string{{}: "under"}}}
		}, v1.ReasonDiskChanged, providers.RemedyOff, "not attached"},
		"taken out, and one of two": {func(i vboxmanage.Info, s *shelf, r *record) {
			i["SATA-0-0"], r.Disk, s.own["other"] = noDrive, "/old", vdi{id: "other", path: dir + "/web/other.vdi", parent: "golden"}
		}, v1.ReasonDiskLost, providers.RemedyNone, "not attached"},
		"one of two taken out": {func(_ vboxmanage.Info, _ *shelf, r *record) { r.Disks = 2 }, v1.ReasonDiskChanged, providers.RemedyNone, "it has 1 of its 2 disks attached"},
		"both taken out":       {func(i vboxmanage.Info, _ *shelf, r *record) { i["SATA-0-0"], r.Disk, r.Disks = noDrive, top, 2 }, v1.ReasonDiskChanged, providers.RemedyNone, "it has 0 of its 2 disks attached"},
		"both attached": {func(i vboxmanage.Info, _ *shelf, r *record) {
			i["SATA-3-0"], i["SATA-ImageUUID-3-0"], r.Disks = dir+"/web/other.vdi", "b", 2
		}, "", "", ""},
		"its only one":          {func(_ vboxmanage.Info, _ *shelf, r *record) { r.Disks = 1 }, "", "", ""},
		"taken out and removed": {func(i vboxmanage.Info, s *shelf, _ *record) { i["SATA-0-0"], s.own = noDrive, nil }, v1.ReasonDiskLost, providers.RemedyNone, "not attached"},
	} {
		i, r, s := vboxmanage.Info{}, r, shelf{
			own:    map[string]vdi{cloneDisk: {id: cloneDisk, path: top, parent: "under"}, "under": {id: "under", path: dir + "/web/under.vdi", parent: "golden"}},
			below:  map[string]vdi{"golden": {id: "golden", path: "/data/images/x/disk.vdi"}},
			exists: func(string) bool { return true },
		}
		for k, v := range info {
			i[k] = v
		}
		tc.change(i, &s, &r)
		found := diskFlaws(machine{id: testID, power: providers.PowerOff, info: i, record: r}, dir, s)
		switch {
		case tc.reason == "" && len(found) == 0:
		case len(found) != 1 || found[0].Reason != tc.reason || found[0].Remedy != tc.remedy || !strings.Contains(found[0].Detail, tc.says) ||
			(found[0].Advice != "") != (tc.remedy == providers.RemedyNone):
			t.Errorf("%s: %+v", name, found)
		}
	}
}

// TestForeignSnapshots: snapshots of ours, and what is left of them, are not others'.
func TestForeignSnapshots(t *testing.T) {
	own := state{name: snapshotName + testID, note: note{ID: testID}}
	left := state{name: remnantName + testID, note: note{ID: testID}}
	if found := snapshotFlaws(machine{id: testID}, []state{own, left}); len(found) > 0 {
		t.Errorf("our own: %+v", found)
	}
	found := snapshotFlaws(machine{id: testID}, []state{own, {name: strings.Repeat("mine\n", 1000)}, {name: "b"}})
	if len(found) != 1 || found[0].Reason != v1.ReasonForeignSnapshots || found[0].Advice == "" || len(found[0].Detail) > 500 || strings.Contains(found[0].Detail, "\n") {
		t.Errorf("somebody's: %+v", found)
	}
}

// TestMediaIn reads a definition such as VirtualBox 7.2.22 writes.
func TestMediaIn(t *testing.T) {
	const text = `<VirtualBox><Machine>
  <MediaRegistry><HardDisks><HardDisk uuid="{a}" location="disk-1.vdi"><HardDisk uuid="{b}" location="Snapshots/{b}.vdi"/></HardDisk></HardDisks>
    <DVDImages><Image uuid="{s}" location="seed.iso"/></DVDImages></MediaRegistry>
  <Snapshot><Hardware><StorageControllers><StorageController><AttachedDevice type="DVD"><Image uuid="{theirs}"/></AttachedDevice></StorageController></StorageControllers></Hardware></Snapshot>
  <Hardware><StorageControllers><StorageController><AttachedDevice type="HardDisk"><Image uuid="{b}"/></AttachedDevice>
    <AttachedDevice type="DVD"/><AttachedDevice type="DVD"><Image uuid="{s}"/></AttachedDevice></StorageController></StorageControllers></Hardware>
</Machine></VirtualBox>`
	used, places, err := mediaIn(strings.NewReader(text))
	if err != nil || !slices.Equal(used, []string{"theirs", "b", "s"}) {
		t.Errorf("used are %q, %v", used, err)
	}
	if got := fmt.Sprint(places); got != "map[a:disk-1.vdi b:Snapshots/{b}.vdi s:seed.iso]" {
		t.Errorf("the places are %s", got)
	}
	if _, _, err := mediaIn(strings.NewReader(text[:200])); err == nil {
		t.Error("one that is cut off is read")
	}
}

// TestRenamedFolder: VirtualBox's folder is found under the name that somebody gave
// the machine.
func TestRenamedFolder(t *testing.T) {
	p := newScripted(t, "linux").Provider
	r := record{ID: testID, VM: "default.web.7ff09921"}
	dir := p.data.MachineDir(testID)
	made := filepath.Join(dir, r.VM)
	if got := p.vmDir(r); got != made {
		t.Errorf("before it is made: %s", got)
	}
	write := func(path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "mine", "mine.vbox"))
	write(filepath.Join(dir, "mine", "default.web.7ff09921-1.19-linux.vbox")) // from before a snapshot was taken
	write(filepath.Join(dir, "empty", "x"))
	if got, def := p.vmDir(r), p.definition(r); got != filepath.Join(dir, "mine") || def != filepath.Join(dir, "mine", "mine.vbox") {
		t.Errorf("renamed: %s, %s", got, def)
	}
	write(filepath.Join(made, "only-the-file.vbox"))
	if got, def := p.vmDir(r), p.definition(r); got != made || def != filepath.Join(made, "only-the-file.vbox") {
		t.Errorf("with its own folder: %s, %s", got, def)
	}
	write(filepath.Join(made, r.VM+".vbox"))
	if def := p.definition(r); def != filepath.Join(made, r.VM+".vbox") {
		t.Errorf("with its own definition: %s", def)
	}
}

// TestLostAdapter: that the adapter of a host-only network is gone is told without
// asking VirtualBox, and joining the network makes another.
func TestLostAdapter(t *testing.T) {
	p := newScripted(t, "linux")
	r := record{ID: testID, Instance: "i", Namespace: "default", Network: v1.Network{Mode: v1.NetworkHostOnly}}
	m := machine{id: testID, record: r}
	flaws := func(want int, when string) {
		t.Helper()
		found := p.linkFlaws(m)
		if len(found) != want {
			t.Errorf("%s: %+v", when, found)
		}
		for _, f := range found {
			if f.Reason != v1.ReasonNetworkChanged || f.at(providers.PowerRunning).Remedy != providers.RemedyPowerOff ||
				f.at(providers.PowerSaved).Remedy != providers.RemedyOff || f.at(providers.PowerOff).Remedy != providers.RemedyOff {
				t.Errorf("%s: %+v", when, f)
			}
		}
	}
	flaws(1, "before there is one")
	join := func() {
		t.Helper()
		if err := p.joinNetwork(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	join()
	flaws(0, "made")
	for _, name := range p.names(t, "adapters") {
		if err := os.Remove(filepath.Join(p.dir, "adapters", name)); err != nil {
			t.Fatal(err)
		}
	}
	flaws(1, "removed by hand")
	join()
	flaws(0, "made again")
	m.record.Network.Mode = v1.NetworkIntnet
	flaws(0, "on a network that is a name only")

	mac := newScripted(t, "darwin")
	if err := mac.joinNetwork(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if found := mac.linkFlaws(machine{id: testID, record: r}); len(found) > 0 {
		t.Errorf("a network of macOS's is no link: %+v", found)
	}
}
