package virtualbox

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// isolated judges a machine by all that is known of it: by what VirtualBox shows of
// it, and by what only its definition says.
func (p *Provider) isolated(m machine) (bool, string) {
	return p.isolatedBut(m, func(flaw) bool { return false })
}

// isolatedBut is isolated, some flaws aside.
func (p *Provider) isolatedBut(m machine, aside func(flaw) bool) (bool, string) {
	found, err := p.flaws(m)
	for _, f := range found {
		if f.open && !aside(f) {
			return false, f.Detail
		}
	}
	if err != nil {
		return false, fmt.Sprintf("its definition cannot be read: %v", err)
	}
	return true, connection(m.record, p.networkName(m.record))
}

// isolation judges a machine's configuration, as VirtualBox shows it, by its
// record. network is VirtualBox's name of what the card is to be connected to.
// The detail says what was seen, or what is wrong.
func isolation(info vboxmanage.Info, r record, network, console string) (isolated bool, detail string) {
	for _, f := range flawsShown(info, r, network, console) {
		if f.open {
			return false, f.Detail
		}
	}
	return true, connection(r, network)
}

// connection says how a machine is connected that is as it should be.
func connection(r record, network string) string {
	switch r.Network.Mode {
	case v1.NetworkNone:
		return "no network card, as VirtualBox shows the machine"
	case v1.NetworkNAT:
		return fmt.Sprintf("one network card on VirtualBox's NAT with %d port forwards, closed to the host's loopback addresses", len(r.Network.PortForwards))
	case v1.NetworkBridged:
		return fmt.Sprintf("one network card bridged to %s, as the spec asks", network)
	default:
		return fmt.Sprintf("one network card on %s network %s, as VirtualBox shows the machine", r.Network.Mode, network)
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
