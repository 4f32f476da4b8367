package virtualbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/hostnet"
)

// network is what machines' cards are connected to, and made for them. An
// internal network is a name only, which machines of one namespace share, and is
// there while machines use it. A host-only network is of one machine alone: an
// adapter of the host, or a network of the host's system (see hostOnly), made
// before the machine starts and removed with it.
type network struct {
	Mode      v1.NetworkMode `json:"mode"`
	Namespace string         `json:"namespace"`
	// Name in the spec, of an internal network; of a host-only one the machine's
	// UUID.
	Name string `json:"name"`
}

// networkOf returns the network that a record needs, if its mode has one of ours.
func networkOf(r record) (network, bool) {
	n := network{Mode: r.Network.Mode, Namespace: r.Namespace, Name: cmp.Or(r.Network.Name, "default")}
	switch r.Network.Mode {
	case v1.NetworkIntnet:
		return n, true
	case v1.NetworkHostOnly:
		// Guests on one adapter would reach each other, and VirtualBox has no
		// means against that.
		n.Name = string(r.ID)
		return n, true
	}
	return network{}, false
}

// id names the network in the inventory; no part of it has a dot.
func (n network) id() string { return string(n.Mode) + "." + n.Namespace + "." + n.Name }

func (n network) String() string {
	if n.Mode == v1.NetworkHostOnly {
		return "host-only network of machine " + n.Name
	}
	return fmt.Sprintf("%s network %q of namespace %q", n.Mode, n.Name, n.Namespace)
}

// internal is VirtualBox's name of an internal network.
func (n network) internal(i providers.Instance) string {
	return "sandboxd-" + short(string(i), 8) + "-" + n.Namespace + "." + n.Name
}

// adapter is a host-only network that we made, or are making.
type adapter struct {
	network
	// Adapter is its name on the host, such as vboxnet3; empty while VirtualBox
	// has not said yet how it named it.
	Adapter string       `json:"adapter,omitempty"`
	Subnet  netip.Prefix `json:"subnet"`
	// Before are the adapters that the host had when ours was asked for.
	Before []string `json:"before,omitempty"`
	// Configured: it was given its address.
	Configured bool `json:"configured,omitempty"`
}

// isOurs tells whether what the host has by the name is what we made. Adapters go
// by hand or with a restart of the host, and VirtualBox gives their names away
// anew: the address tells them apart, and stays with an adapter.
func (a adapter) isOurs(address string) bool {
	return !a.Configured || strings.HasPrefix(a.Adapter, hostNetworkPrefix) || address == hostnet.Gateway(a.Subnet).String()
}

func (p *Provider) adapterFile(n network) string {
	return filepath.Join(p.data.networks(), short(n.id(), 16)+".json")
}

// answerFile is where VBoxManage itself writes down how it named an adapter.
func (p *Provider) answerFile(n network) string {
	return strings.TrimSuffix(p.adapterFile(n), ".json") + ".answer"
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

// noAdapter is said in place of the name of an adapter of which nothing is noted.
const noAdapter = "an adapter that is not there (any more)"

// networkName is VirtualBox's name of what a machine's card is connected to; empty
// while the adapter of a host-only network is being made.
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
		return noAdapter
	}
	return a.Adapter
}

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
	present, err := p.hostOnly().present(ctx)
	if err != nil {
		return err
	}
	a, err := p.readAdapter(n)
	if err == nil && a.Adapter == "" {
		a, err = p.recover(a, present)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p.fileError(n.String(), err)
	}
	address, there := present[a.Adapter]
	if err == nil && there && !a.isOurs(address) {
		there = false
		if err := p.doubtWhose(a.Adapter, a.network); err != nil {
			return err
		}
	}
	switch {
	case err != nil || !there: // never made, or lost
		if a, err = p.makeNetwork(ctx, n, present); err != nil {
			return err
		}
	case a.Configured && address == hostnet.Gateway(a.Subnet).String():
		return nil
	}
	if err := p.hostOnly().configure(ctx, a); err != nil || a.Configured {
		return err
	}
	a.Configured = true
	return p.writeAdapter(a)
}

// makeNetwork makes a host-only network. What is going to be done is noted
// before, and what came of it after.
func (p *Provider) makeNetwork(ctx context.Context, n network, present map[string]string) (adapter, error) {
	used, err := hostnet.UsedSubnets()
	if err != nil {
		return adapter{}, providers.Errorf(providers.ErrUnavailable, "host network", "%w", err)
	}
	others, err := p.adapters()
	if err != nil {
		return adapter{}, p.fileError(n.String(), err)
	}
	for _, o := range others { // which may have no address yet
		if o.network != n {
			used = append(used, o.Subnet)
		}
	}
	subnet, ok := hostnet.ChooseSubnet(p.opts.SubnetPool, hostonlyBits, n.id(), used)
	if !ok {
		return adapter{}, providers.Errorf(providers.ErrCapacity, n.String(), "no /%d subnet of the pool %s is free", hostonlyBits, p.opts.SubnetPool)
	}
	a := adapter{network: n, Subnet: subnet, Before: sortedKeys(present)}
	if a.Adapter, err = p.hostOnly().create(ctx, a); err != nil {
		return a, err
	}
	a.Before = nil
	if err := p.writeAdapter(a); err != nil {
		return a, err
	}
	if err := os.Remove(p.answerFile(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return a, p.fileError(n.String(), err)
	}
	providers.Logger(ctx, p.log).Info("host-only network made", "adapter", a.Adapter, "network", n.id(), "subnet", subnet.String())
	return a, nil
}

func (p *Provider) writeAdapter(a adapter) error {
	p.steps.next()
	b, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	return p.fileError(a.String(), files.Write(p.adapterFile(a.network), append(b, '\n'), datafolder.FileMode))
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
	present, listErr := p.hostOnly().present(ctx)
	if listErr != nil {
		return listErr
	}
	if err == nil && a.Adapter == "" {
		a, err = p.recover(a, present)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p.fileError(n.String(), err)
	}
	switch address, there := present[a.Adapter]; {
	case err != nil || !there:
	case !a.isOurs(address):
		if err := p.doubtWhose(a.Adapter, n); err != nil {
			return err
		}
	default:
		if err := p.hostOnly().remove(ctx, a); err != nil {
			return err
		}
		providers.Logger(ctx, p.log).Info("host-only network removed", "adapter", a.Adapter, "network", n.id())
	}
	p.steps.next()
	for _, path := range []string{p.answerFile(n), p.adapterFile(n)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return p.fileError(n.String(), err)
		}
	}
	return nil
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

// adapters lists the host-only networks that we made, or are making.
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
