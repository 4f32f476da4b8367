package virtualbox

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// off are the keys that have to have one value, whatever the spec.
var off = map[string]string{
	"uart2": "off", "uart3": "off", "uart4": "off", "lpt1": "off", "lpt2": "off",
	"vrde": "off", "usb": "off", "ehci": "off", "xhci": "off", "audio": "none",
	"clipboard": "disabled", "draganddrop": "disabled", "teleporterenabled": "off",
}

// isolated judges a machine by all that is known of it: by what VirtualBox shows of
// it, and by what only its definition says.
func (p *Provider) isolated(m machine) (bool, string) {
	yes, detail := isolation(m.info, m.record, p.networkName(m.record), p.data.console(m.id))
	if !yes {
		return false, detail
	}
	d, err := readDefinition(m.info["CfgFile"])
	if err != nil {
		return false, fmt.Sprintf("its definition cannot be read: %v", err)
	}
	if wrong := d.wrong(m.record.SharedFolders); wrong != "" {
		return false, wrong
	}
	return true, detail
}

// isolation judges a machine's configuration, as VirtualBox shows it, by its
// record. network is VirtualBox's name of what the card is to be connected to.
// The detail says what was seen, or what is wrong.
func isolation(info vboxmanage.Info, r record, network, console string) (isolated bool, detail string) {
	if wrong := wrongCard(info, r, network); wrong != "" {
		return false, wrong
	}
	for _, key := range furtherCards(info) {
		if kind := info[key]; kind != "none" {
			return false, fmt.Sprintf("the machine has a network card %s, of kind %q, that its spec does not name", strings.TrimPrefix(key, "nic"), kind)
		}
	}
	for _, key := range sortedKeys(off) {
		if value, known := info[key]; known && value != off[key] {
			return false, fmt.Sprintf("the machine has %s set to %q: it ought to be %q", key, value, off[key])
		}
	}
	if mode := info["uartmode1"]; mode != "file,"+console {
		return false, fmt.Sprintf("the serial port leads to %q, not to the console's log", mode)
	}
	if wrong := wrongFolders(info, r.SharedFolders); wrong != "" {
		return false, wrong
	}
	if others := strangers(info, filepath.Dir(console)); len(others) > 0 {
		return false, fmt.Sprintf("the machine has %s in a drive, which is not its own", others[0].path)
	}
	switch r.Network.Mode {
	case v1.NetworkNone:
		return true, "no network card, as VirtualBox shows the machine"
	case v1.NetworkNAT:
		return true, fmt.Sprintf("one network card on VirtualBox's NAT with %d port forwards, closed to the host's loopback addresses", len(r.Network.PortForwards))
	case v1.NetworkBridged:
		return true, fmt.Sprintf("one network card bridged to %s, as the spec asks", network)
	default:
		return true, fmt.Sprintf("one network card on %s network %s, as VirtualBox shows the machine", r.Network.Mode, network)
	}
}

// beyond says what a guest reaches that its network mode rules out. VirtualBox
// has no filter: its NAT opens the guest's connections as the host's own, and what
// comes in by a host-only adapter is to the host like what comes from elsewhere.
func beyond(mode v1.NetworkMode) string {
	switch mode {
	case v1.NetworkNAT:
		return "VirtualBox's NAT cannot keep the guest from the host's other addresses, its networks, and the sandboxes that the host reaches"
	case v1.NetworkHostOnly:
		return "VirtualBox cannot keep the guest from what listens on any of the host's addresses, nor from what the host forwards packets to"
	}
	return ""
}

// wrongCard says what is wrong with the first network card.
func wrongCard(info vboxmanage.Info, r record, network string) string {
	want := string(r.Network.Mode)
	if got := info["nic1"]; got != want && (want != string(v1.NetworkHostOnly) || got != hostNetworkKind) {
		return fmt.Sprintf("the network card is of kind %q, and the spec asks for %q", got, want)
	}
	if r.Network.Mode == v1.NetworkNone {
		return ""
	}
	if got := info["macaddress1"]; !strings.EqualFold(got, macArgument(r.ID)) {
		return fmt.Sprintf("the network card has the address %s, not its own %s", got, macArgument(r.ID))
	}
	key := map[v1.NetworkMode]string{
		v1.NetworkIntnet: "intnet1", v1.NetworkHostOnly: "hostonlyadapter1", v1.NetworkBridged: "bridgeadapter1",
	}[r.Network.Mode]
	if info["nic1"] == hostNetworkKind {
		key = "hostonly-network1"
	}
	if key != "" && info[key] != network {
		return fmt.Sprintf("the network card is connected to %q, not to %q", info[key], network)
	}
	if r.Network.Mode != v1.NetworkNAT {
		return ""
	}
	for _, key := range sortedKeys(openings) {
		// What is off is closed when it starts: see closeLoopback.
		if info[key] == "1" && (key != loopbackKey || hasProcess(info)) {
			return openings[key]
		}
	}
	if got, want := forwardsOf(info), rulesOf(r.Network.PortForwards); !slices.Equal(got, want) {
		return fmt.Sprintf("the port forwards are %q, not %q", got, want)
	}
	return ""
}

// hostNetworkKind is VirtualBox's word for a card on a host-only network of
// macOS's.
const hostNetworkKind = "hostonlynetwork"

const loopbackKey = "localhostReachable"

// openings are the settings of VirtualBox's NAT that have to be off, and what they
// would mean.
var openings = map[string]string{
	loopbackKey:        "the guest may reach services on the host's loopback addresses",
	"enableTFTP":       "the guest may read files of the host's by TFTP",
	"forwardBroadcast": "the guest's broadcasts go out to the host's network",
}

// hasProcess tells whether a machine is on.
func hasProcess(info vboxmanage.Info) bool {
	now, _ := power(info["VMState"])
	return now != providers.PowerOff && now != providers.PowerSaved
}

// closeLoopback makes sure that a machine which is to be started on NAT will not
// reach the host's loopback addresses, and looks again at one that it had to
// change. VirtualBox 7.2 leaves that setting out of a machine's file when it is
// off, and takes it to be on when VBoxSVC reads the file anew: it is forgotten
// with each VBoxSVC. The machine's process keeps what it began with.
func (p *Provider) closeLoopback(ctx context.Context, m machine) (machine, error) {
	if m.record.Network.Mode != v1.NetworkNAT || m.info[loopbackKey] != "1" {
		return m, nil
	}
	if _, err := p.manage(ctx, m.id, 0, "modifyvm", string(m.id), "--nat-localhostreachable1", "off"); err != nil {
		return m, err
	}
	m, err := p.look(ctx, m.id)
	if err == nil && m.info[loopbackKey] == "1" {
		err = notIsolated(m.id, "it was not started", openings[loopbackKey])
	}
	return m, err
}

// strangers lists what is in a machine's drives and does not lie in its directory:
// media and drives of the host, and disks that a clone shares with what it was
// cloned from.
func strangers(info vboxmanage.Info, dir string) []disk {
	disks, others := attached(info)
	return slices.DeleteFunc(slices.Concat(disks, others), func(d disk) bool { return d.empty() || within(dir, d.path) })
}

// foldersOf lists the folders that a machine offers for good, path by name.
func foldersOf(info vboxmanage.Info) map[string]string {
	return mappedFolders(info, "Machine")
}

func mappedFolders(info vboxmanage.Info, kind string) map[string]string {
	folders := map[string]string{}
	for i := 1; ; i++ {
		name, ok := info[fmt.Sprintf("SharedFolderName%sMapping%d", kind, i)]
		if !ok {
			return folders
		}
		folders[name] = info[fmt.Sprintf("SharedFolderPath%sMapping%d", kind, i)]
	}
}

// wrongFolders says which folder the guest is offered that is not the spec's. What
// is offered for a while, or to all machines, is never ours, by whatever name.
func wrongFolders(info vboxmanage.Info, want []v1.SharedFolder) string {
	have := foldersOf(info)
	for _, f := range want {
		if path, ok := have[f.Name]; ok && path != f.HostPath {
			return fmt.Sprintf("the shared folder %q leads to %s, not to %s", f.Name, path, f.HostPath)
		}
		delete(have, f.Name)
	}
	for _, folders := range []map[string]string{have, mappedFolders(info, "Transient"), mappedFolders(info, "Global")} {
		for _, name := range sortedKeys(folders) {
			return fmt.Sprintf("the guest is offered the folder %q, which its spec does not name", name)
		}
	}
	return ""
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// macOf is the machine's MAC address.
func macOf(id types.UID) string { return providers.MACAddress(id, 0) }
