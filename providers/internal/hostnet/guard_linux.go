package hostnet

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
)

// setting is a setting of the kernel that keeps guests on a bridge apart from
// the host and from each other.
type setting struct {
	path, value string
	flaw        string // what is wrong if it has another value
}

// settings of a bridge.
func settings(bridge string) []setting {
	return []setting{
		{
			"/proc/sys/net/ipv4/conf/" + bridge + "/arp_ignore", "1",
			"the host answers ARP on bridge " + bridge + " for all of its addresses (arp_ignore is not 1)",
		},
		{
			// Frames to the addresses 01:80:c2:00:00:0X end at the bridge, before
			// any rule of a firewall sees them. Their senders must not count as
			// being where they came from.
			"/sys/class/net/" + bridge + "/bridge/no_linklocal_learn", "1",
			"on bridge " + bridge + " a guest can draw another's frames to itself (no_linklocal_learn is not 1)",
		},
	}
}

// Guard gives a bridge the settings that guests on it call for.
func Guard(bridge string) error {
	for _, s := range settings(bridge) {
		if err := os.WriteFile(s.path, []byte(s.value), 0o644); err != nil {
			return fmt.Errorf("%s: %w", s.flaw, err)
		}
	}
	return nil
}

// Flaw says what of that a bridge lacks; nothing if it lacks nothing.
func Flaw(bridge string) string {
	for _, s := range settings(bridge) {
		if b, err := os.ReadFile(s.path); err != nil || strings.TrimSpace(string(b)) != s.value {
			return s.flaw
		}
	}
	return ""
}

// RemoveBridge removes a bridge, if there is one of that name.
func RemoveBridge(name string) error {
	link, err := netlink.LinkByName(name)
	var gone netlink.LinkNotFoundError
	if errors.As(err, &gone) || err == nil && link.Type() != "bridge" {
		return nil
	}
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}
