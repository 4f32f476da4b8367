package virtualbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/hostnet"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// hostonlyBits is the length of the prefix of a hostonly network: room for the
// host, the DHCP server and the one guest.
const hostonlyBits = 29

// hostOnly is one of VirtualBox's two ways to connect the host with a machine:
//
//	hostAdapters  Linux, Windows   an adapter of VirtualBox's own driver, which VirtualBox
//	                               names, and a DHCP server for it
//	hostNetworks  macOS            a network of the system's, with a name of ours, whose
//	                               DHCP is part of it
//
// All but card need the lock of host-only networks.
type hostOnly interface {
	// present lists what there is, whoever made it: the host's address by name.
	present(ctx context.Context) (map[string]string, error)
	// create makes one, of which everything but the name is known, and returns its
	// name. What is being done is noted before.
	create(ctx context.Context, a adapter) (string, error)
	// configure gives one its addresses. The guest is offered no route: nothing is
	// reached by the host.
	configure(ctx context.Context, a adapter) error
	// remove removes one that is there.
	remove(ctx context.Context, a adapter) error
	// lease is the address that a card was given, if that can be asked.
	lease(ctx context.Context, name string, id types.UID) (netip.Addr, bool)
}

// hostOnly is the way that VirtualBox has on this system.
func (p *Provider) hostOnly() hostOnly {
	if p.opts.system == "darwin" || p.opts.system == "" && runtime.GOOS == "darwin" {
		return hostNetworks{p}
	}
	return hostAdapters{p}
}

// hostNetworkPrefix begins the names of networks that we give names. VirtualBox
// itself gives none that begin so.
const hostNetworkPrefix = "sandboxd-"

// hostOnlyCard is the arguments that connect a machine's card.
func hostOnlyCard(name string) []string {
	if strings.HasPrefix(name, hostNetworkPrefix) {
		return []string{"--nic1", "hostonlynet", "--host-only-net1", name}
	}
	return []string{"--nic1", "hostonly", "--host-only-adapter1", name}
}

// guestRange is the mask of a subnet, and the addresses from the host's to the
// last that a guest may have.
func guestRange(subnet netip.Prefix) (mask string, host, last netip.Addr) {
	host = hostnet.Gateway(subnet)
	last = host
	for next := last.Next().Next(); subnet.Contains(next); next = last.Next().Next() {
		last = last.Next() // the last address of all is the broadcast's
	}
	return net.IP(net.CIDRMask(subnet.Bits(), 32)).String(), host, last
}

type hostAdapters struct{ p *Provider }

func (h hostAdapters) run(ctx context.Context, object string, args ...string) (vboxmanage.Output, error) {
	return h.p.vbox.Run(ctx, vboxmanage.Call{Object: object, Args: args})
}

func (h hostAdapters) present(ctx context.Context) (map[string]string, error) {
	out, err := h.p.vbox.List(ctx, "host-only networks", "hostonlyifs")
	if err != nil {
		return nil, err
	}
	present := map[string]string{}
	for _, b := range vboxmanage.Blocks(out) {
		present[b["Name"]] = b["IPAddress"]
	}
	return present, nil
}

var adapterCreated = regexp.MustCompile(`Interface '([A-Za-z0-9 #._-]{1,64})' was successfully created`)

// create lets VBoxManage write its answer into a file by itself: should this
// process end meanwhile, the next one knows from there which adapter is ours.
func (h hostAdapters) create(ctx context.Context, a adapter) (string, error) {
	p := h.p
	answer, err := os.OpenFile(p.answerFile(a.network), os.O_CREATE|os.O_TRUNC|os.O_RDWR, datafolder.FileMode)
	if err != nil {
		return "", p.fileError(a.String(), err)
	}
	defer func() { _ = answer.Close() }()
	if err := p.writeAdapter(a); err != nil {
		return "", err
	}
	// Not to be cut off: what it makes has no name before.
	_, err = p.vbox.Run(context.WithoutCancel(ctx), vboxmanage.Call{
		Object: a.String(), Args: []string{"hostonlyif", "create"}, Stdout: answer,
	})
	if name, ok := p.answer(a.network); ok {
		return name, nil
	}
	if err == nil {
		err = providers.Errorf(providers.ErrUnavailable, a.String(), "VBoxManage hostonlyif create did not say which adapter it made")
	}
	present, listErr := h.present(context.WithoutCancel(ctx))
	if listErr != nil {
		return "", errors.Join(err, listErr)
	}
	return "", errors.Join(err, p.giveUp(a, present))
}

// answer reads what VBoxManage has said of the adapter it made.
func (p *Provider) answer(n network) (string, bool) {
	b, err := os.ReadFile(p.answerFile(n))
	if err != nil {
		return "", false
	}
	m := adapterCreated.FindSubmatch(b)
	if m == nil {
		return "", false
	}
	return string(m[1]), true
}

func (h hostAdapters) configure(ctx context.Context, a adapter) error {
	mask, gateway, last := guestRange(a.Subnet)
	server := gateway.Next()
	// VirtualBox may know a server from an adapter that had the name before.
	_, _ = h.run(ctx, a.String(), "dhcpserver", "remove", "--interface", a.Adapter)
	if _, err := h.run(ctx, a.String(), "hostonlyif", "ipconfig", a.Adapter, "--ip", gateway.String(), "--netmask", mask); err != nil {
		return err
	}
	_, err := h.run(ctx, a.String(), "dhcpserver", "add", "--interface", a.Adapter, "--server-ip", server.String(), "--netmask", mask,
		"--lower-ip", server.Next().String(), "--upper-ip", last.String(), "--enable")
	return err
}

func (h hostAdapters) remove(ctx context.Context, a adapter) error {
	_, _ = h.run(ctx, a.String(), "dhcpserver", "remove", "--interface", a.Adapter)
	_, err := h.run(ctx, a.String(), "hostonlyif", "remove", a.Adapter)
	return err
}

var leased = regexp.MustCompile(`(?m)^IP Address: +(\S+)`)

func (h hostAdapters) lease(ctx context.Context, name string, id types.UID) (netip.Addr, bool) {
	out, err := h.run(ctx, machineObject(id), "dhcpserver", "findlease", "--interface", name, "--mac-address", macArgument(id))
	if err != nil {
		return netip.Addr{}, false
	}
	found := leased.FindSubmatch(out.Stdout)
	if found == nil {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(string(found[1]))
	return addr, err == nil
}

type hostNetworks struct{ p *Provider }

func (h hostNetworks) run(ctx context.Context, object string, args ...string) (vboxmanage.Output, error) {
	return h.p.vbox.Run(ctx, vboxmanage.Call{Object: object, Args: args})
}

func (h hostNetworks) present(ctx context.Context) (map[string]string, error) {
	out, err := h.p.vbox.List(ctx, "host-only networks", "hostonlynets")
	if err != nil {
		return nil, err
	}
	// Of each, VBoxManage prints an empty line after the GUID too.
	out = bytes.ReplaceAll(out, []byte("\n\nState:"), []byte("\nState:"))
	present := map[string]string{}
	for _, b := range vboxmanage.Blocks(out) {
		present[b["Name"]] = b["LowerIP"]
	}
	return present, nil
}

// create notes the name before it is given to a network: whatever has it is ours.
func (h hostNetworks) create(ctx context.Context, a adapter) (string, error) {
	a.Adapter = fmt.Sprintf("%s%s-%s", hostNetworkPrefix, short(string(h.p.opts.Instance), 8), a.Name)
	before := a.Before
	a.Before = nil
	if err := h.p.writeAdapter(a); err != nil {
		return "", err
	}
	for _, name := range before {
		if name == a.Adapter { // from an attempt that was cut off
			return name, nil
		}
	}
	_, err := h.run(ctx, a.String(), append([]string{"hostonlynet", "add"}, rangeArguments(a)...)...)
	return a.Adapter, err
}

// rangeArguments name a network and its addresses: the lower one is the host's,
// those above it are given out.
func rangeArguments(a adapter) []string {
	mask, host, last := guestRange(a.Subnet)
	return []string{"--name", a.Adapter, "--netmask", mask, "--lower-ip", host.String(), "--upper-ip", last.String(), "--enable"}
}

func (h hostNetworks) configure(ctx context.Context, a adapter) error {
	_, err := h.run(ctx, a.String(), append([]string{"hostonlynet", "modify"}, rangeArguments(a)...)...)
	return err
}

func (h hostNetworks) remove(ctx context.Context, a adapter) error {
	_, err := h.run(ctx, a.String(), "hostonlynet", "remove", "--name", a.Adapter)
	return err
}

// lease knows nothing: the system's own DHCP server gives the addresses out.
func (h hostNetworks) lease(context.Context, string, types.UID) (netip.Addr, bool) {
	return netip.Addr{}, false
}
