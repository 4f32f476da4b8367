// Package identity derives the names of everything that the provider makes
// for an instance, so that a name never has to be remembered:
//
//	libvirt network   sandboxd-<instance 8>-<mode>[.<namespace>.<name>]   UUID: version 5
//	bridge            sb<instance 4><mode 1><network 8>
//	tap               st<instance 4><mode 1><machine 8>
//	nftables table    sandboxd_<instance 8>
//
// Names of links have 15 characters (IFNAMSIZ-1), of which the hashes take
// what is left: 20 bits of the instance, 40 of the network or machine. The
// prefix up to the mode is what the firewall's rules match, so that a link is
// under its rules from the moment it exists. A name proves nothing about whose
// a thing is; the UUID of a network, derived from the full instance ID, does.
package identity

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// space is the UUID namespace of the networks: sandboxd's own, made once.
var space = uuid.MustParse("5f0ad2f5-1a5e-5d0c-9e0b-6a0f3b1c7d42")

// Network names a network that machines of one instance share.
type Network struct {
	Instance  providers.Instance
	Mode      v1.NetworkMode
	Namespace string
	Name      string
}

// NetworkOf returns the network that a machine needs, if its mode needs one
// that we make.
func NetworkOf(instance providers.Instance, namespace string, n v1.Network) (Network, bool) {
	switch n.Mode {
	case v1.NetworkNAT:
		return Network{Instance: instance, Mode: n.Mode}, true
	case v1.NetworkIntnet, v1.NetworkHostOnly:
		name := n.Name
		if name == "" {
			name = "default"
		}
		return Network{Instance: instance, Mode: n.Mode, Namespace: namespace, Name: name}, true
	default:
		return Network{}, false
	}
}

// UUID of the libvirt network. It proves that the network is the instance's.
func (n Network) UUID() string {
	return uuid.NewSHA1(space, fmt.Appendf(nil, "%s/%s/%s/%s", n.Instance, n.Mode, n.Namespace, n.Name)).String()
}

// LibvirtName of the network. Parses back with ParseNetwork.
func (n Network) LibvirtName() string {
	name := NetworkPrefix(n.Instance) + string(n.Mode)
	if n.Name != "" {
		name += "." + n.Namespace + "." + n.Name
	}
	return name
}

// String is what messages call the network.
func (n Network) String() string {
	if n.Name == "" {
		return fmt.Sprintf("the %s network", n.Mode)
	}
	return fmt.Sprintf("%s network %q of namespace %q", n.Mode, n.Name, n.Namespace)
}

// Bridge is the name of the network's bridge.
func (n Network) Bridge() string {
	return BridgeOf(n.Instance, n.Mode, n.UUID())
}

// BridgeOf is the name of the bridge of a network that has a UUID.
func BridgeOf(i providers.Instance, mode v1.NetworkMode, network string) string {
	return BridgePrefix(i, mode) + short(network, 8)
}

// NetworkPrefix begins the names of all libvirt networks of an instance.
func NetworkPrefix(i providers.Instance) string { return "sandboxd-" + i.Short() + "-" }

// ParseNetwork undoes LibvirtName. The result says what the name claims; that
// it is true, the network's UUID must show.
func ParseNetwork(i providers.Instance, libvirtName string) (Network, bool) {
	rest, ok := strings.CutPrefix(libvirtName, NetworkPrefix(i))
	if !ok {
		return Network{}, false
	}
	parts := strings.Split(rest, ".")
	n := Network{Instance: i, Mode: v1.NetworkMode(parts[0])}
	if len(parts) == 3 {
		n.Namespace, n.Name = parts[1], parts[2]
	}
	return n, n.LibvirtName() == libvirtName
}

// BridgePrefix begins the names of an instance's bridges of one mode.
func BridgePrefix(i providers.Instance, mode v1.NetworkMode) string {
	return "sb" + short(string(i), 4) + letter(mode)
}

// AnyBridge begins the names of the bridges of all instances of sandboxd.
const AnyBridge = "sb"

// InstanceBridges begins the names of all bridges of an instance.
func InstanceBridges(i providers.Instance) string { return "sb" + short(string(i), 4) }

// TapPrefix begins the names of the host's ends of an instance's interfaces of
// one mode.
func TapPrefix(i providers.Instance, mode v1.NetworkMode) string {
	return "st" + short(string(i), 4) + letter(mode)
}

// InstanceTaps begins the names of the host's ends of all interfaces of an
// instance.
func InstanceTaps(i providers.Instance) string { return "st" + short(string(i), 4) }

// Tap is the name of the host's end of a machine's interface.
func Tap(i providers.Instance, mode v1.NetworkMode, id types.UID) string {
	return TapPrefix(i, mode) + short(string(id), 8)
}

// Table is the name of the instance's nftables tables.
func Table(i providers.Instance) string { return "sandboxd_" + short(string(i), 8) }

// maxDomainName bounds a machine's name on the hypervisor. libvirt makes names
// of files of it, which have at most 255 bytes with what is appended.
const maxDomainName = 200

// DomainName is a machine's name on the hypervisor, for people. A name that is
// too long loses its end.
func DomainName(namespace, name string, id types.UID) string {
	whole := cmp.Or(namespace, "image") + "." + name
	return fmt.Sprintf("%s.%.8s", strings.TrimRight(whole[:min(len(whole), maxDomainName-9)], ".-"), id)
}

func letter(mode v1.NetworkMode) string {
	switch mode {
	case v1.NetworkIntnet:
		return "i"
	case v1.NetworkHostOnly:
		return "h"
	case v1.NetworkNAT:
		return "n"
	default:
		return "b"
	}
}

var lower = base32.HexEncoding.WithPadding(base32.NoPadding)

// short is n characters of a hash.
func short(s string, n int) string {
	sum := sha256.Sum256([]byte(s))
	return strings.ToLower(lower.EncodeToString(sum[:]))[:n]
}
