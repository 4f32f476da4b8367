package virtualbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/hostnet"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// network is one that machines of one namespace share. An internal network is a
// name only, and is there while machines use it; a host-only network is an
// adapter of the host with a DHCP server, made with the first machine and removed
// with the last.
type network struct {
	Mode      v1.NetworkMode `json:"mode"`
	Namespace string         `json:"namespace"`
	Name      string         `json:"name"`
}

// networkOf returns the network that a record needs, if its mode has one of ours.
func networkOf(r record) (network, bool) {
	if r.Network.Mode != v1.NetworkIntnet && r.Network.Mode != v1.NetworkHostOnly {
		return network{}, false
	}
	name := r.Network.Name
	if name == "" {
		name = "default"
	}
	return network{Mode: r.Network.Mode, Namespace: r.Namespace, Name: name}, true
}

// id names the network in the inventory; no part of it has a dot.
func (n network) id() string { return string(n.Mode) + "." + n.Namespace + "." + n.Name }

func (n network) String() string {
	return fmt.Sprintf("%s network %q of namespace %q", n.Mode, n.Name, n.Namespace)
}

// internal is VirtualBox's name of an internal network.
func (n network) internal(i providers.Instance) string {
	return "sandboxd-" + short(string(i), 8) + "-" + n.Namespace + "." + n.Name
}

// adapter is a host-only adapter that we made.
type adapter struct {
	network
	// Adapter is its name on the host, such as vboxnet3.
	Adapter string       `json:"adapter"`
	Subnet  netip.Prefix `json:"subnet"`
}

func (p *Provider) adapterFile(n network) string {
	return filepath.Join(p.data.networks(), short(n.id(), 16)+".json")
}

func (p *Provider) readAdapter(n network) (adapter, error) {
	b, err := os.ReadFile(p.adapterFile(n))
	if err != nil {
		return adapter{}, err
	}
	var a adapter
	if err := json.Unmarshal(b, &a); err != nil || a.network != n || !a.Subnet.IsValid() {
		return adapter{}, fmt.Errorf("%s is damaged: %w", p.adapterFile(n), fs.ErrNotExist)
	}
	return a, nil
}

// networkName is VirtualBox's name of what a machine's card is connected to.
func (p *Provider) networkName(r record) string {
	n, ok := networkOf(r)
	switch {
	case r.Network.Mode == v1.NetworkBridged:
		return r.Network.Bridge
	case !ok:
		return ""
	case n.Mode == v1.NetworkIntnet:
		return n.internal(p.opts.Instance)
	}
	a, err := p.readAdapter(n)
	if err != nil {
		return "an adapter that is not there (any more)"
	}
	return a.Adapter
}

var adapterCreated = regexp.MustCompile(`Interface '([A-Za-z0-9 #._-]{1,64})' was successfully created`)

// joinNetwork makes sure that the network a machine needs exists. The machine's
// record names it already.
func (p *Provider) joinNetwork(ctx context.Context, r record) error {
	n, ok := networkOf(r)
	if !ok || n.Mode != v1.NetworkHostOnly {
		return nil
	}
	unlock, err := p.locks.Lock(ctx, "hostonly")
	if err != nil {
		return err
	}
	defer unlock()
	out, err := p.vbox.Run(ctx, vboxmanage.Call{Object: n.String(), Args: []string{"list", "hostonlyifs"}})
	if err != nil {
		return err
	}
	present := map[string]string{} // address by name
	for _, b := range vboxmanage.Blocks(out.Stdout) {
		present[b["Name"]] = b["IPAddress"]
	}
	a, err := p.readAdapter(n)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p.fileError(n.String(), err)
	}
	address, there := present[a.Adapter]
	switch {
	case err != nil || !there: // never made, or gone with a restart of the host
		if a, err = p.makeAdapter(ctx, n); err != nil {
			return err
		}
	case address == hostnet.Gateway(a.Subnet).String():
		return nil
	}
	return p.configureAdapter(ctx, a)
}

// makeAdapter makes a host-only adapter and notes at once that it is ours.
func (p *Provider) makeAdapter(ctx context.Context, n network) (adapter, error) {
	used, err := hostnet.UsedSubnets()
	if err != nil {
		return adapter{}, providers.Errorf(providers.ErrUnavailable, "host network", "%w", err)
	}
	subnet, ok := hostnet.ChooseSubnet(p.opts.SubnetPool, hostonlyBits, n.id(), used)
	if !ok {
		return adapter{}, providers.Errorf(providers.ErrCapacity, n.String(), "no /%d subnet of the pool %s is free", hostonlyBits, p.opts.SubnetPool)
	}
	out, err := p.vbox.Run(ctx, vboxmanage.Call{Object: n.String(), Args: []string{"hostonlyif", "create"}})
	if err != nil {
		return adapter{}, err
	}
	m := adapterCreated.FindSubmatch(out.Stdout)
	if m == nil {
		return adapter{}, providers.Errorf(providers.ErrUnavailable, n.String(), "VBoxManage hostonlyif create did not say which adapter it made")
	}
	a := adapter{network: n, Adapter: string(m[1]), Subnet: subnet}
	b, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return a, err
	}
	p.log.Info("host-only adapter made", "adapter", a.Adapter, "network", n.id(), "subnet", subnet.String())
	return a, p.fileError(n.String(), files.Write(p.adapterFile(n), append(b, '\n'), fileMode))
}

// configureAdapter gives an adapter its address and its DHCP server. The server
// offers no route: nothing is reached by the host.
func (p *Provider) configureAdapter(ctx context.Context, a adapter) error {
	gateway := hostnet.Gateway(a.Subnet)
	const mask = "255.255.255.0" // of hostonlyBits
	last := gateway.As4()
	last[3] = 254
	server := gateway.Next()
	steps := [][]string{
		{"hostonlyif", "ipconfig", a.Adapter, "--ip", gateway.String(), "--netmask", mask},
		{
			"dhcpserver", "add", "--interface", a.Adapter, "--server-ip", server.String(), "--netmask", mask,
			"--lower-ip", server.Next().String(), "--upper-ip", netip.AddrFrom4(last).String(), "--enable",
		},
	}
	// VirtualBox may know a server from an adapter that had the name before.
	_, _ = p.vbox.Run(ctx, vboxmanage.Call{Object: a.String(), Args: []string{"dhcpserver", "remove", "--interface", a.Adapter}})
	for _, args := range steps {
		if _, err := p.vbox.Run(ctx, vboxmanage.Call{Object: a.String(), Args: args}); err != nil {
			return err
		}
	}
	return nil
}

// leaveNetwork removes a network that no record names any more.
func (p *Provider) leaveNetwork(ctx context.Context, n network) error {
	if n.Mode != v1.NetworkHostOnly {
		return nil
	}
	unlock, err := p.locks.Lock(ctx, "hostonly")
	if err != nil {
		return err
	}
	defer unlock()
	owners, err := p.networkOwners()
	if err != nil {
		return p.fileError(n.String(), err)
	}
	a, err := p.readAdapter(n)
	if errors.Is(err, fs.ErrNotExist) || len(owners[n]) > 0 {
		return nil
	}
	if err != nil {
		return p.fileError(n.String(), err)
	}
	_, _ = p.vbox.Run(ctx, vboxmanage.Call{Object: n.String(), Args: []string{"dhcpserver", "remove", "--interface", a.Adapter}})
	_, err = p.vbox.Run(ctx, vboxmanage.Call{Object: n.String(), Args: []string{"hostonlyif", "remove", a.Adapter}})
	if err != nil && !errors.Is(err, providers.ErrInvalid) { // ErrInvalid: there is no such adapter (any more)
		return err
	}
	p.log.Info("host-only adapter removed", "adapter", a.Adapter, "network", n.id())
	return p.fileError(n.String(), os.Remove(p.adapterFile(n)))
}

// networkOwners lists the machines that need each network.
func (p *Provider) networkOwners() (map[network][]types.UID, error) {
	ids, err := p.data.machineIDs()
	if err != nil {
		return nil, err
	}
	owners := map[network][]types.UID{}
	for _, id := range ids {
		r, err := p.readRecord(id)
		if err != nil {
			continue
		}
		if n, ok := networkOf(r); ok {
			owners[n] = append(owners[n], id)
		}
	}
	return owners, nil
}

// adapters lists the host-only adapters that we made.
func (p *Provider) adapters() ([]adapter, error) {
	entries, err := os.ReadDir(p.data.networks())
	if err != nil {
		return nil, err
	}
	var all []adapter
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(p.data.networks(), e.Name()))
		var a adapter
		if err == nil && json.Unmarshal(b, &a) == nil && filepath.Base(p.adapterFile(a.network)) == e.Name() {
			all = append(all, a)
		}
	}
	return all, nil
}

// parseNetwork undoes network.id.
func parseNetwork(id string) (network, bool) {
	parts := strings.Split(id, ".")
	if len(parts) != 3 {
		return network{}, false
	}
	n := network{Mode: v1.NetworkMode(parts[0]), Namespace: parts[1], Name: parts[2]}
	return n, n.Mode == v1.NetworkIntnet || n.Mode == v1.NetworkHostOnly
}
