package virtualbox

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

const (
	testID      = "7ff09921-4609-4f67-abe1-97b14a2a7705"
	testConsole = "/data/machines/" + testID + "/console.log"
)

// sound is a machine as VirtualBox shows one that is isolated in a mode.
func sound(mode v1.NetworkMode) (vboxmanage.Info, record, string) {
	r := record{ID: testID, Namespace: "default", Network: v1.Network{Mode: mode}}
	info := vboxmanage.Info{
		"VMState": stateRunning, "nic1": string(mode), "uart1": "0x03f8,4", "uartmode1": "file," + testConsole,
		"uart2": "off", "uart3": "off", "uart4": "off", "lpt1": "off", "lpt2": "off", "vrde": "off",
		"usb": "off", "ehci": "off", "xhci": "off", "audio": "none", "clipboard": "disabled", "draganddrop": "disabled", "teleporterenabled": "off",
		"SharedFolderNameMachineMapping1": "in", "SharedFolderPathMachineMapping1": "/srv/in",
	}
	for n := 2; n <= cards; n++ {
		info[fmt.Sprintf("nic%d", n)] = "none"
	}
	maps.Copy(info, vboxmanage.Info{
		"nic9": "none", "nictype1": cardType,
		"storagecontrollername0": "SATA", "SATA-0-0": path.Dir(testConsole) + "/web/Snapshots/{" + cloneDisk + "}.vdi", "SATA-ImageUUID-0-0": cloneDisk,
		"SATA-1-0": path.Dir(testConsole) + "/web/seed.iso", "SATA-2-0": emptyDrive, "SATA-3-0": noDrive,
		"storagecontrollername1": "FD", "storagecontrollertype1": "I82078", "FD-0-0": emptyDrive,
	})
	r.SharedFolders = []v1.SharedFolder{{Name: "in", HostPath: "/srv/in"}}
	if mode != v1.NetworkNone {
		info["macaddress1"] = macArgument(testID)
	}
	network := ""
	switch mode {
	case v1.NetworkIntnet:
		network = "sandboxd-12345678-default.default"
		info["intnet1"] = network
	case v1.NetworkHostOnly:
		network = "vboxnet3"
		info["hostonlyadapter1"] = network
	case v1.NetworkBridged:
		network = "eth0"
		info["bridgeadapter1"] = network
	case v1.NetworkNAT:
		r.Network.PortForwards = []v1.PortForward{
			{Name: "ssh", Protocol: v1.ProtocolTCP, HostAddress: "127.0.0.1", HostPort: 2222, GuestPort: 22},
		}
		info["Forwarding(0)"], info["localhostReachable"] = "ssh,tcp,127.0.0.1,2222,,22", "0"
	}
	return info, r, network
}

var modes = []v1.NetworkMode{v1.NetworkNone, v1.NetworkIntnet, v1.NetworkHostOnly, v1.NetworkNAT, v1.NetworkBridged}

// TestEveryFlawIsSeen changes one thing at a time of machines that are isolated.
func TestEveryFlawIsSeen(t *testing.T) {
	flaws := map[string]func(vboxmanage.Info){
		"another kind of card":    func(i vboxmanage.Info) { i["nic1"] = "generic" },
		"no card shown":           func(i vboxmanage.Info) { delete(i, "nic1") },
		"a second card":           func(i vboxmanage.Info) { i["nic2"] = "nat" },
		"a last card":             func(i vboxmanage.Info) { i["nic8"] = "bridged" },
		"a card that is unknown":  func(i vboxmanage.Info) { delete(i, "nic5") },
		"a card of many":          func(i vboxmanage.Info) { i["nic36"] = "bridged" },
		"a serial port to a pipe": func(i vboxmanage.Info) { i["uartmode1"] = "server,/tmp/pipe" },
		"another console":         func(i vboxmanage.Info) { i["uartmode1"] = "file,/etc/passwd" },
		"another folder": func(i vboxmanage.Info) {
			i["SharedFolderNameMachineMapping2"], i["SharedFolderPathMachineMapping2"] = "etc", "/etc"
		},
		"a folder for a while": func(i vboxmanage.Info) {
			i["SharedFolderNameTransientMapping1"], i["SharedFolderPathTransientMapping1"] = "etc", "/etc"
		},
		"the spec's folder for a while": func(i vboxmanage.Info) {
			i["SharedFolderNameTransientMapping1"], i["SharedFolderPathTransientMapping1"] = "in", "/srv/in"
		},
		"the spec's folder for all": func(i vboxmanage.Info) {
			i["SharedFolderNameGlobalMapping1"], i["SharedFolderPathGlobalMapping1"] = "in", "/srv/in"
		},
		"a drive of the host":    func(i vboxmanage.Info) { i["SATA-1-0"] = "/dev/sr0" },
		"another machine's disk": func(i vboxmanage.Info) { i["SATA-2-0"], i["SATA-ImageUUID-2-0"] = "/data/machines/x/a.vdi", cloneDisk },
		"a floppy":               func(i vboxmanage.Info) { i["FD-0-0"] = "/srv/floppy.img" },
		"a folder elsewhere":     func(i vboxmanage.Info) { i["SharedFolderPathMachineMapping1"] = "/etc" },
	}
	for key, value := range off {
		flaws[key+" on"] = func(i vboxmanage.Info) { i[key] = value + "x" }
	}
	ofMode := map[v1.NetworkMode]map[string]func(vboxmanage.Info){
		v1.NetworkIntnet: {"another network": func(i vboxmanage.Info) { i["intnet1"] = "other" }},
		v1.NetworkHostOnly: {
			"another adapter": func(i vboxmanage.Info) { i["hostonlyadapter1"] = "vboxnet0" },
			"another network": func(i vboxmanage.Info) { i["nic1"], i["hostonly-network1"] = hostNetworkKind, "vboxnet0" },
			"no network":      func(i vboxmanage.Info) { i["nic1"] = hostNetworkKind },
		},
		v1.NetworkBridged: {"another link": func(i vboxmanage.Info) { i["bridgeadapter1"] = "eth1" }},
		v1.NetworkNAT: {
			"the host's loopback":   func(i vboxmanage.Info) { i["localhostReachable"] = "1" },
			"the host's files":      func(i vboxmanage.Info) { i["enableTFTP"] = "1" },
			"the host's broadcasts": func(i vboxmanage.Info) { i["forwardBroadcast"] = "1" },
			"one forward more":      func(i vboxmanage.Info) { i["Forwarding(1)"] = "x,tcp,,80,,80" },
			"one forward less":      func(i vboxmanage.Info) { delete(i, "Forwarding(0)") },
			"a forward for anybody": func(i vboxmanage.Info) { i["Forwarding(0)"] = "ssh,tcp,0.0.0.0,2222,,22" },
		},
	}
	for _, mode := range modes {
		info, r, network := sound(mode)
		if isolated, detail := isolation(info, r, network, testConsole); !isolated || detail == "" {
			t.Errorf("%s: a sound machine is judged %v: %s", mode, isolated, detail)
		}
		all := maps.Clone(flaws)
		maps.Copy(all, ofMode[mode])
		if mode != v1.NetworkNone {
			all["another's address"] = func(i vboxmanage.Info) { i["macaddress1"] = "080027000001" }
		}
		for name, flaw := range all {
			info, r, network := sound(mode)
			flaw(info)
			if isolated, detail := isolation(info, r, network, testConsole); isolated || detail == "" {
				t.Errorf("%s: %s is not seen: %s", mode, name, detail)
			}
		}
		for _, other := range modes {
			_, r, network := sound(other)
			if isolated, _ := isolation(info, r, network, testConsole); isolated && other != mode {
				t.Errorf("a machine on %s passes for one on %s", mode, other)
			}
		}
	}
}

// TestLoopbackOfMachinesThatAreOff: VirtualBox forgets that setting, so it is
// judged when there is a process that has it.
func TestLoopbackOfMachinesThatAreOff(t *testing.T) {
	for state, isolated := range map[string]bool{
		statePoweroff: true, stateSaved: true, "aborted": true, "aborted-saved": true, stateRunning: false, "paused": false, "stopping": false,
	} {
		info, r, network := sound(v1.NetworkNAT)
		info["VMState"], info["localhostReachable"] = state, "1"
		if got, detail := isolation(info, r, network, testConsole); got != isolated {
			t.Errorf("%s: judged %v: %s", state, got, detail)
		}
	}
}

// TestBeyond: of the modes that VirtualBox cannot hold it is said what the guest
// reaches all the same.
func TestBeyond(t *testing.T) {
	for _, mode := range modes {
		weak := mode == v1.NetworkNAT || mode == v1.NetworkHostOnly
		if got := beyond(mode); (got != "") != weak {
			t.Errorf("%s: %q", mode, got)
		}
	}
}

// TestHostNetworkCard: a card on a network of macOS's is what mode hostonly is
// there.
func TestHostNetworkCard(t *testing.T) {
	info, r, _ := sound(v1.NetworkHostOnly)
	delete(info, "hostonlyadapter1")
	info["nic1"], info["hostonly-network1"] = hostNetworkKind, "sandboxd-12345678-x"
	if isolated, detail := isolation(info, r, "sandboxd-12345678-x", testConsole); !isolated {
		t.Error(detail)
	}
}

// TestPlan: what a plan sets is what isolation asks for, in every mode, and
// nothing in it is text of the user's that VBoxManage could take for an option.
func TestPlan(t *testing.T) {
	for _, mode := range modes {
		_, r, network := sound(mode)
		pl := plan{
			spec:     providers.MachineSpec{ID: testID, Namespace: "default", Name: "web", CPUs: 2, MemoryBytes: 1<<30 + 12345, Network: r.Network},
			instance: "instance", engine: EngineInterpreter, network: network, forwards: r.Network.PortForwards, console: testConsole,
		}
		args := pl.arguments(vboxmanage.Info{"Forwarding(0)": "old,udp,,1,,1", "nic36": "nat", "nic36x": "nat"})
		line := " " + strings.Join(args, " ") + " "
		for _, want := range []string{
			" --nat-pf1 delete old ", " --memory 1024 ", " --cpus 2 ", " --ioapic on ", " --firmware bios ", " --vrde off ", " --usb-xhci off ",
			" --audio-enabled off ", " --clipboard-mode disabled ", " --drag-and-drop disabled ", " --uart-mode1 file " + testConsole + " ",
			" --vm-execution-engine interpreter ", " --nic8 none ", " --nic36 none ",
		} {
			if !strings.Contains(line, want) {
				t.Errorf("%s: %q is missing in %s", mode, want, line)
			}
		}
		wants := map[v1.NetworkMode]string{
			v1.NetworkNone: " --nic1 none ", v1.NetworkIntnet: " --intnet1 " + network + " ", v1.NetworkHostOnly: " --host-only-adapter1 vboxnet3 ",
			v1.NetworkBridged: " --bridge-adapter1 eth0 ", v1.NetworkNAT: " --nat-localhostreachable1 off --nat-pf1 ssh,tcp,127.0.0.1,2222,,22 ",
		}
		if !strings.Contains(line, wants[mode]) {
			t.Errorf("%s: %q is missing in %s", mode, wants[mode], line)
		}
		last := slices.Index(args, "--description")
		if after := args[last+2:]; mode == v1.NetworkNone && slices.Contains(after, "--nic1") {
			t.Errorf("without a network a card is made: %v", after)
		}
		if i := strings.LastIndex(line, " --nic1 "); !strings.HasPrefix(line[i:], " --nic1 "+string(mode)+" ") {
			t.Errorf("%s: the last word on the card is %s", mode, line[i:])
		}
	}
	opened := plan{spec: providers.MachineSpec{ID: testID, CPUs: 1, Network: v1.Network{Mode: v1.NetworkNAT}}, engine: EngineDefault}
	if line := strings.Join(opened.arguments(vboxmanage.Info{"enableTFTP": "1", "forwardBroadcast": "0"}), " "); !strings.HasSuffix(line, " --nat-enable-tftp1 off") {
		t.Errorf("what an adopted machine's NAT offers is not closed: %s", line)
	}
	adopted := plan{spec: providers.MachineSpec{ID: testID, CPUs: 1}, adopted: true, engine: EngineDefault}
	if args := adopted.arguments(nil); slices.Contains(args, "--firmware") || slices.Contains(args, "--vm-execution-engine") {
		t.Errorf("an adopted machine's firmware or engine is changed: %v", args)
	}
}

func TestPowerStates(t *testing.T) {
	for state, want := range map[string]struct {
		power providers.Power
		off   providers.OffReason
	}{
		"poweroff": {providers.PowerOff, ""}, "aborted": {providers.PowerOff, providers.OffCrashed}, "saved": {providers.PowerSaved, ""},
		"aborted-saved": {providers.PowerSaved, ""}, "running": {providers.PowerRunning, ""}, "paused": {providers.PowerPaused, ""},
		"gurumeditation": {providers.PowerPaused, ""}, "stopping": {providers.PowerStopping, ""}, "starting": {providers.PowerPaused, ""},
		"livesnapshotting": {providers.PowerRunning, ""}, "onlinesnapshotting": {providers.PowerRunning, ""}, "restoring": {providers.PowerPaused, ""}, "saving": {providers.PowerPaused, ""},
	} {
		if power, off := power(state); power != want.power || off != want.off {
			t.Errorf("%s is %s %s", state, power, off)
		}
	}
}
