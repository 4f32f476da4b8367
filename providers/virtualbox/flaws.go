package virtualbox

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// flaw is one way in which a machine differs from what it was made as.
type flaw struct {
	// Drift, with the remedy for a machine that is on.
	providers.Drift
	// open: with it the machine is not isolated as defined.
	open bool
	// live are the arguments of controlvm that put it right at once, and saved those
	// of modifyvm that do so while the machine is saved; none where that is not
	// possible.
	live, saved []string
	// joins: the network is made before a machine starts, and its card connected then.
	joins bool
	// unfinished: it is a change of our own that was cut off.
	unfinished bool
}

// flawed is a flaw with a remedy.
func flawed(reason string, remedy providers.Remedy, format string, args ...any) flaw {
	return flaw{Drift: providers.Drift{Reason: reason, Remedy: remedy, Detail: fmt.Sprintf(format, args...)}}
}

// opened is a flaw with which a machine must not run.
func opened(reason, format string, args ...any) flaw {
	f := flawed(reason, providers.RemedyPowerOff, format, args...)
	f.open = true
	return f
}

// longestShown is the most, in bytes, that is repeated of what others wrote.
const longestShown = 200

// shown is what others wrote, as part of a message.
func shown(s string) string {
	if len(s) > longestShown {
		s = s[:longestShown] + "..."
	}
	return strconv.Quote(s)
}

// flawsShown compares a machine, as VirtualBox shows it, with its record. What
// VirtualBox fills in by itself, or tells in another way when it was started anew, is
// left out, and so is what a guest can do, such as eject its seed.
func flawsShown(info vboxmanage.Info, r record, network, console string) []flaw {
	return slices.Concat(
		cardFlaws(info, r, network), deviceFlaws(info, console), folderFlaws(info, r.SharedFolders),
		driveFlaws(info, filepath.Dir(console)), sizeFlaws(info, r),
	)
}

// sizeFlaws compares the name and the sizes. The record of a machine that an earlier
// version made says nothing of the latter.
func sizeFlaws(info vboxmanage.Info, r record) []flaw {
	var found []flaw
	add := func(format string, args ...any) {
		found = append(found, flawed(v1.ReasonDefinitionChanged, providers.RemedyOff, format, args...))
	}
	if name := info["name"]; name != r.VM && r.VM != "" && name != "" {
		add("its name is %s, and was made as %s", shown(name), shown(r.VM))
	}
	if have, err := strconv.ParseInt(info["memory"], 10, 32); err == nil && r.MemoryBytes > 0 && have != r.MemoryBytes>>20 {
		add("its memory is %d MiB, and was made as %d MiB", have, r.MemoryBytes>>20)
	}
	if have, err := strconv.Atoi(info["cpus"]); err == nil && r.CPUs > 0 && have != r.CPUs {
		add("it has %d CPUs, and was made with %d", have, r.CPUs)
	}
	return found
}

// off are the keys that have to have one value, whatever the spec.
var off = map[string]string{
	"uart2": "off", "uart3": "off", "uart4": "off", "lpt1": "off", "lpt2": "off",
	"vrde": "off", "usb": "off", "ehci": "off", "xhci": "off", "audio": "none",
	"clipboard": "disabled", "draganddrop": "disabled", "teleporterenabled": "off",
}

// switches are those of them that VirtualBox changes while a machine runs.
var switches = map[string]flaw{
	"vrde":        {live: []string{"vrde", "off"}, saved: []string{"--vrde", "off"}},
	"clipboard":   {live: []string{"clipboard", "mode", "disabled"}},
	"draganddrop": {live: []string{"draganddrop", "disabled"}},
}

func deviceFlaws(info vboxmanage.Info, console string) []flaw {
	var found []flaw
	for _, key := range sortedKeys(off) {
		value, known := info[key]
		if !known || value == off[key] {
			continue
		}
		f := opened(v1.ReasonDefinitionChanged, "it has %s set to %s, which ought to be %q", key, shown(value), off[key])
		if s, is := switches[key]; is {
			f.Remedy, f.live, f.saved = providers.RemedyEnsure, s.live, s.saved
		}
		found = append(found, f)
	}
	if mode := info["uartmode1"]; mode != logMode(console) && mode != ttyMode(console) {
		found = append(found, opened(v1.ReasonDefinitionChanged, "its serial port leads to %s, not to the console's log", shown(mode)))
	}
	return found
}

// cardFlaws compares the network cards. Of a first card of another kind there is
// nothing more to say.
func cardFlaws(info vboxmanage.Info, r record, network string) []flaw {
	var found []flaw
	add := func(format string, args ...any) {
		found = append(found, opened(v1.ReasonNetworkChanged, format, args...))
	}
	for _, key := range furtherCards(info) {
		if kind := info[key]; kind != "none" {
			add("it has a network card %s, of kind %s, that its spec does not name", strings.TrimPrefix(key, "nic"), shown(kind))
		}
	}
	want := string(r.Network.Mode)
	if got := info["nic1"]; got != want && (want != string(v1.NetworkHostOnly) || got != hostNetworkKind) {
		add("its network card is of kind %s, and the spec asks for %q", shown(got), want)
		return found
	}
	if r.Network.Mode == v1.NetworkNone {
		return found
	}
	if got := info["macaddress1"]; !strings.EqualFold(got, macArgument(r.ID)) {
		add("its network card has the address %s, not its own %s", shown(got), macArgument(r.ID))
	}
	key := map[v1.NetworkMode]string{
		v1.NetworkIntnet: "intnet1", v1.NetworkHostOnly: "hostonlyadapter1", v1.NetworkBridged: "bridgeadapter1",
	}[r.Network.Mode]
	if info["nic1"] == hostNetworkKind {
		key = "hostonly-network1"
	}
	if key != "" && info[key] != network {
		f := opened(v1.ReasonNetworkChanged, "its network card is connected to %s, not to %q", shown(info[key]), network)
		if f.joins = r.Network.Mode == v1.NetworkHostOnly; f.joins && network != "" && network != noAdapter {
			f.saved = hostOnlyCard(network)[2:] // its kind is right
		}
		found = append(found, f)
	}
	if info["cableconnected1"] == "off" {
		f := flawed(v1.ReasonNetworkChanged, providers.RemedyEnsure, "the cable of its network card is pulled out")
		f.live, f.saved = []string{"setlinkstate1", "on"}, []string{"--cable-connected1", "on"}
		found = append(found, f)
	}
	if r.Network.Mode == v1.NetworkNAT {
		found = append(found, natFlaws(info, r)...)
	}
	return found
}

// natFlaws compares what the NAT lets through. Forwards that EnsureMachine itself has
// not changed to the end are none of anybody else's, and are finished by it as well.
func natFlaws(info vboxmanage.Info, r record) []flaw {
	var found []flaw
	for _, key := range sortedKeys(openings) {
		// What is off is closed when it starts: see closeLoopback.
		if info[key] == "1" && (key != loopbackKey || hasProcess(info)) {
			found = append(found, opened(v1.ReasonNetworkChanged, "%s", openings[key]))
		}
	}
	if got, want := forwardsOf(info), rulesOf(r.Network.PortForwards); !slices.Equal(got, want) {
		f := opened(v1.ReasonNetworkChanged, "its port forwards are %s, not %s", shown(strings.Join(got, " ")), shown(strings.Join(want, " ")))
		f.Remedy, f.unfinished = providers.RemedyEnsure, r.Hashes.Forwards == ""
		found = append(found, f)
	}
	return found
}

// folderFlaws compares the folders that the guest is offered. What is offered for a
// while, or to all machines, is never ours, by whatever name.
func folderFlaws(info vboxmanage.Info, want []v1.SharedFolder) []flaw {
	var found []flaw
	add := func(f flaw) { found = append(found, f) }
	have := foldersOf(info)
	for _, f := range want {
		switch path, offered := have[f.Name]; {
		case !offered:
			add(flawed(v1.ReasonDefinitionChanged, providers.RemedyOff, "the shared folder %q is not offered to the guest", f.Name))
		case path != f.HostPath:
			add(opened(v1.ReasonDefinitionChanged, "the shared folder %q leads to %s, not to %s", f.Name, shown(path), f.HostPath))
		}
		delete(have, f.Name)
	}
	for _, folders := range []map[string]string{have, mappedFolders(info, "Transient"), mappedFolders(info, "Global")} {
		for _, name := range sortedKeys(folders) {
			add(opened(v1.ReasonDefinitionChanged, "the guest is offered the folder %s, which its spec does not name", shown(name)))
		}
	}
	return found
}

// driveFlaws finds what is in a machine's drives and not its own.
func driveFlaws(info vboxmanage.Info, dir string) []flaw {
	disks, _ := attached(info)
	var found []flaw
	for _, d := range strangers(info, dir) {
		if slices.Contains(disks, d) {
			found = append(found, opened(v1.ReasonDiskChanged, "it has the disk %s, which is not its own", shown(d.path)))
		} else {
			found = append(found, opened(v1.ReasonDefinitionChanged, "it has %s in a drive, which is not its own", shown(d.path)))
		}
	}
	return found
}
