package hostnet

import "regexp"

// IsSandboxLink tells whether a link's name is such as the bridges and taps of
// sandboxes have, of any instance of sandboxd and with whatever hypervisor, or the
// host-only adapters of VirtualBox. Whoever is connected to one is on a sandbox's
// network.
func IsSandboxLink(name string) bool { return sandboxLink.MatchString(name) }

// sandboxLink: bridges (sb) and taps (st) of libvirt's networks, by instance, mode
// and hash; and VirtualBox's own names, on Linux and macOS, and on Windows.
var sandboxLink = regexp.MustCompile(`^(s[bt][0-9a-v]{4}[ihnb][0-9a-v]{8}|vboxnet[0-9]+|VirtualBox Host-Only .*)$`)
