package virtualbox

import (
	"cmp"
	"fmt"
	"net"
	"sort"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// cards is how many network cards every machine of VirtualBox's can have. Adopted
// ones may have a chipset that has room for more.
const cards = 8

// furtherCards lists, by their keys, the network cards of a machine beside the
// first.
func furtherCards(info vboxmanage.Info) []string {
	keys := map[string]string{}
	for n := 2; n <= cards; n++ {
		keys["nic"+strconv.Itoa(n)] = ""
	}
	for key := range info {
		if number, ok := strings.CutPrefix(key, "nic"); ok && isNumber(number) && key != "nic1" {
			keys[key] = ""
		}
	}
	return sortedKeys(keys)
}

// hardened are the arguments of modifyvm that switch off what a sandbox does not
// need, and the firmware's pauses for people.
func hardened(firmware v1.Firmware, now vboxmanage.Info) []string {
	args := []string{
		"--audio-enabled", "off", "--audio-driver", "none", "--audio-in", "off", "--audio-out", "off",
		"--clipboard-mode", "disabled", "--clipboard-file-transfers", "disabled", "--drag-and-drop", "disabled",
		"--usb-ohci", "off", "--usb-ehci", "off", "--usb-xhci", "off", "--mouse", "ps2", "--keyboard", "ps2",
		"--vrde", "off", "--recording", "off", "--teleporter", "off", "--autostart-enabled", "off",
		"--nested-hw-virt", "off", "--accelerate-3d", "off", "--rtc-use-utc", "on",
		"--lpt1", "off", "--lpt2", "off", "--uart2", "off", "--uart3", "off", "--uart4", "off",
		"--boot1", "disk", "--boot2", "none", "--boot3", "none", "--boot4", "none",
		"--firmware-logo-fade-in", "off", "--firmware-logo-fade-out", "off",
		"--firmware-logo-display-time", "0", "--firmware-boot-menu", "disabled",
	}
	if firmware != "" {
		args = append(args, "--firmware", string(firmware))
	}
	for _, key := range furtherCards(now) {
		args = append(args, "--"+key, "none")
	}
	return append(args, "--nic1", "none")
}

// plan is what a machine's configuration is to be.
type plan struct {
	spec     providers.MachineSpec
	instance providers.Instance
	engine   string
	adopted  bool   // its image is somebody's machine, whose firmware is kept
	network  string // VirtualBox's name of the intnet, adapter or link
	forwards []v1.PortForward
	console  string

	installer instructions
}

// arguments of the one modifyvm call that makes a machine what is planned.
func (pl plan) arguments(now vboxmanage.Info) []string {
	s := pl.spec
	firmware := cmp.Or(s.Firmware, v1.FirmwareBIOS)
	if pl.adopted {
		firmware = ""
	}
	var args []string
	for _, name := range forwardNames(now) { // while the card is still one that has them
		args = append(args, "--nat-pf1", "delete", name)
	}
	args = append(args, hardened(firmware, now)...)
	args = append(args,
		"--memory", strconv.FormatInt(s.MemoryBytes>>20, 10), "--cpus", strconv.Itoa(s.CPUs),
		"--uart1", "0x3F8", "4", "--uart-mode1", "file", pl.console,
		"--description", pl.description(),
	)
	if s.CPUs > 1 {
		args = append(args, "--ioapic", "on")
	}
	args = append(args, pl.installer.bootOrder()...)
	if pl.engine != EngineDefault {
		args = append(args, "--vm-execution-engine", engineArgument(pl.engine))
	}
	if pl.engine == EngineInterpreter || pl.engine == EngineRecompiler {
		args = append(args, "--paravirt-provider", "none") // nothing to gain from, and it costs time
	}
	args = append(args, pl.card()...)
	for key, option := range map[string]string{"enableTFTP": "--nat-enable-tftp1", "forwardBroadcast": "--nat-forward-broadcast1"} {
		if now[key] == "1" { // the adopted machine's; VirtualBox 7.0 does not have them
			args = append(args, option, "off")
		}
	}
	return args
}

// description is what people read of the machine in VirtualBox.
func (pl plan) description() string {
	s := pl.spec
	return fmt.Sprintf("sandbox %s/%s (%s) of sandboxd, instance %s", s.Namespace, s.Name, s.ID, pl.instance)
}

func engineArgument(engine string) string {
	if engine == EngineNative {
		return "hm"
	}
	return engine
}

// card is the arguments for the network card.
func (pl plan) card() []string {
	s := pl.spec
	if s.Network.Mode == v1.NetworkNone {
		return nil // hardened has switched it off
	}
	args := []string{
		"--nic1", string(s.Network.Mode), "--nic-type1", cardType, "--cable-connected1", "on",
		"--mac-address1", macArgument(s.ID), "--nic-promisc1", "deny",
	}
	switch s.Network.Mode {
	case v1.NetworkIntnet:
		args = append(args, "--intnet1", pl.network)
	case v1.NetworkHostOnly:
		args = append(hostOnlyCard(pl.network), args[2:]...)
	case v1.NetworkBridged:
		args = append(args, "--bridge-adapter1", pl.network)
	case v1.NetworkNAT:
		args = append(args, "--nat-localhostreachable1", "off")
		for _, f := range pl.forwards {
			args = append(args, "--nat-pf1", forwardRule(f))
		}
	}
	return args
}

// cardType is the kind of network card: Intel's, for which every system has a
// driver.
const cardType = "82540EM"

// macArgument is the machine's MAC address as VBoxManage takes it.
func macArgument(id types.UID) string {
	m, _ := net.ParseMAC(macOf(id)) // well formed by construction
	return fmt.Sprintf("%X", []byte(m))
}

// forwardRule is a port forward as VBoxManage takes it. VirtualBox names rules;
// the name keeps them apart.
func forwardRule(f v1.PortForward) string {
	return fmt.Sprintf("%s,%s,%s,%d,,%d", f.Name, strings.ToLower(string(f.Protocol)), f.HostAddress, f.HostPort, f.GuestPort)
}

// forwardsOf reads a machine's port forwards, as rules.
func forwardsOf(info vboxmanage.Info) []string {
	var rules []string
	for i := 0; ; i++ {
		rule, ok := info[fmt.Sprintf("Forwarding(%d)", i)]
		if !ok {
			break
		}
		rules = append(rules, rule)
	}
	sort.Strings(rules)
	return rules
}

// openForwards reads the port forwards of a machine that is on.
func openForwards(info vboxmanage.Info) []v1.PortForward {
	var forwards []v1.PortForward
	for _, rule := range forwardsOf(info) {
		if f, ok := parseRule(rule); ok && hasProcess(info) {
			forwards = append(forwards, f)
		}
	}
	return forwards
}

// parseRule undoes forwardRule.
func parseRule(rule string) (v1.PortForward, bool) {
	parts := strings.Split(rule, ",")
	if len(parts) != 6 {
		return v1.PortForward{}, false
	}
	hostPort, hostErr := strconv.ParseUint(parts[3], 10, 16)
	guestPort, guestErr := strconv.ParseUint(parts[5], 10, 16)
	return v1.PortForward{
		Name: parts[0], Protocol: v1.Protocol(strings.ToUpper(parts[1])), HostAddress: parts[2],
		HostPort: int32(hostPort), GuestPort: int32(guestPort),
	}, hostErr == nil && guestErr == nil
}

func forwardNames(info vboxmanage.Info) []string {
	var names []string
	for _, rule := range forwardsOf(info) {
		name, _, _ := strings.Cut(rule, ",")
		names = append(names, name)
	}
	return names
}

// rulesOf are the rules that forwards ought to be.
func rulesOf(forwards []v1.PortForward) []string {
	var rules []string
	for _, f := range forwards {
		rules = append(rules, forwardRule(f))
	}
	sort.Strings(rules)
	return rules
}

// disk is a hard disk of a machine, and where it is attached.
type disk struct {
	controller   string
	floppy       bool // the controller has drives for nothing else
	port, device string
	path, medium string // file, and the UUID of the medium
}

// empty tells whether nothing is in a drive, or there is none.
func (d disk) empty() bool { return d.path == emptyDrive || d.path == noDrive }

// VirtualBox's words for a drive with nothing in it, and for no drive.
const (
	emptyDrive = "emptydrive"
	noDrive    = "none"
)

// attached lists what is in a machine's drives: hard disks, and the rest.
func attached(info vboxmanage.Info) (disks, others []disk) {
	for i := 0; ; i++ {
		name, ok := info[fmt.Sprintf("storagecontrollername%d", i)]
		if !ok {
			break
		}
		for key, path := range info {
			rest, ok := strings.CutPrefix(key, name+"-")
			port, device, two := strings.Cut(rest, "-")
			if !ok || !two || !isNumber(port) || !isNumber(device) {
				continue
			}
			d := disk{controller: name, port: port, device: device, path: path, medium: info[name+"-ImageUUID-"+rest]}
			d.floppy = info[fmt.Sprintf("storagecontrollertype%d", i)] == "I82078"
			_, removable := info[name+"-tempeject-"+rest]
			if d.medium != "" && !removable && !d.floppy {
				disks = append(disks, d)
			} else {
				others = append(others, d)
			}
		}
	}
	for _, list := range [][]disk{disks, others} {
		sort.Slice(list, func(i, j int) bool { return list[i].order() < list[j].order() })
	}
	return disks, others
}

func (d disk) order() string { return fmt.Sprintf("%s %4s %4s", d.controller, d.port, d.device) }

func disksOf(info vboxmanage.Info) []disk {
	disks, _ := attached(info)
	return disks
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

// seedSlot finds where the seed is, or where there is room for it: an empty
// drive, or a place without one.
func seedSlot(info vboxmanage.Info, seed string) (slot disk, inserted, ok bool) {
	_, others := attached(info)
	for _, d := range others {
		if d.path == seed {
			return d, true, true
		}
	}
	for _, d := range others {
		if d.empty() && !d.floppy {
			return d, false, true
		}
	}
	return disk{}, false, false
}
