//go:build linux

package kvm

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/hostnet"
	"sandboxd.dev/sandboxd/providers/kvm/internal/domain"
	"sandboxd.dev/sandboxd/providers/kvm/internal/firewall"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
	"sandboxd.dev/sandboxd/providers/kvm/internal/libvirtconn"
)

// What can be wrong with a network that machines need, and who sees it:
//
//	destroyed, undefined or its bridge deleted  GetMachine: the host has no such bridge
//	defined by others and off                   joinNetwork: the same
//	its bridge has other addresses              joinNetwork, once no machine is on it
//	its bridge is left and libvirt has none     joinNetwork; or listed as garbage
//
// In all cases it is removed with what is left of it, and made anew.

// A machine's file "network" has the UUID of the network that it needs, and of the
// run of the host in which it was last there: after a reboot, none is there, and that
// is nobody's doing.
type networkRef struct{ network, boot string }

func (r networkRef) bytes() []byte { return []byte(r.network + "\n" + r.boot + "\n") }

func readNetworkRef(path string) (networkRef, error) {
	b, err := os.ReadFile(path)
	network, boot, _ := bytes.Cut(b, []byte("\n"))
	return networkRef{string(network), string(bytes.TrimSpace(boot))}, err
}

// bootID names the run of the host, which no process outlives.
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // without it, nobody is suspected
	return string(bytes.TrimSpace(b))
}

// noteNetwork notes that a machine needs a network, which may not be there yet: with
// made, that it is there in this run of the host, so that it can be missed.
func (p *Provider) noteNetwork(id types.UID, n identity.Network, made bool) error {
	path, ref := p.data.networkRef(id), networkRef{network: n.UUID()}
	if made {
		ref.boot = p.boot
	}
	if was, err := readNetworkRef(path); err == nil && was.network == ref.network && (!made || was.boot == ref.boot) {
		return nil
	}
	p.steps.next()
	return p.fileError(machineObject(id), files.Write(path, ref.bytes(), datafolder.FileMode))
}

// lostNetwork tells whether the network of a machine that is off was removed by
// others. It is recognized by its bridge, which costs no call to libvirt.
func (p *Provider) lostNetwork(ctx context.Context, m machine) (providers.Drift, bool) {
	n, managed := identity.NetworkOf(p.opts.Instance, m.record.Namespace, m.record.Network)
	if !managed || m.power != providers.PowerOff {
		return providers.Drift{}, false
	}
	for _, fresh := range []bool{false, true} { // what was made a moment ago is not in an old look
		view, err := p.view.links.get(ctx, struct{}{}, fresh)
		if err != nil || view.Links[n.Bridge()].Kind == "bridge" {
			return providers.Drift{}, false
		}
	}
	ref, err := readNetworkRef(p.data.networkRef(m.id))
	if err != nil || ref.network != n.UUID() || ref.boot == "" || ref.boot != p.boot {
		return providers.Drift{}, false
	}
	return providers.Drift{
		Reason: v1.ReasonNetworkChanged, Remedy: providers.RemedyEnsure,
		Detail: "the host has no bridge " + n.Bridge() + " any more, on which " + n.String() + " was",
	}, true
}

// soundNetwork reads a network. One that no machine can be connected to is removed
// and ErrNotFound.
func (p *Provider) soundNetwork(ctx context.Context, n identity.Network) (sight, error) {
	x, err := p.readNetwork(ctx, n)
	if err != nil {
		return sight{}, err
	}
	s := sight{net: n, xml: x}
	if s.host, err = p.view.links.get(ctx, struct{}{}, true); err != nil {
		return s, providers.Errorf(providers.ErrUnavailable, "host network", "its links cannot be listed: %w", err)
	}
	bridge, there := s.host.Links[n.Bridge()]
	wrong := ""
	switch {
	case !there || bridge.Kind != "bridge":
		wrong = "its bridge is gone"
	case len(s.host.Ports(bridge)) > 0: // of a machine that runs, or of others
		return s, nil
	default:
		if wrong = judgeNetwork(s, domain.Interface{}); wrong == "" {
			wrong = judgeBridge(s, domain.Interface{})
		}
	}
	if wrong == "" {
		return s, nil
	}
	p.log.Info("network was changed by others and is made anew", "network", n.LibvirtName(), "found", wrong)
	if err := p.destroyNetwork(ctx, n); err != nil {
		return s, err
	}
	return s, providers.Errorf(providers.ErrNotFound, n.String(), "it was removed to be made anew")
}

// destroyNetwork removes a network that nobody uses, also one that others have
// defined or switched off, and what libvirt may have left of it.
func (p *Provider) destroyNetwork(ctx context.Context, n identity.Network) error {
	found := false
	for _, remove := range []func(*libvirt.Libvirt, libvirt.Network) error{(*libvirt.Libvirt).NetworkDestroy, (*libvirt.Libvirt).NetworkUndefine} {
		err := libvirtconn.Do(ctx, p.conn.Lifecycle(), n.String(), libvirtconn.Slow, func(l *libvirt.Libvirt) error {
			return remove(l, libvirtNetwork(n))
		})
		switch {
		case err == nil:
			found = true
		case errors.Is(err, providers.ErrNotFound): // it is gone
		case libvirtconn.Code(err) == libvirt.ErrOperationInvalid: // it was off
			found = true
		default:
			return err
		}
		if errors.Is(err, providers.ErrNotFound) {
			break
		}
	}
	if found {
		providers.Logger(ctx, p.log).Info("network removed", "network", n.LibvirtName())
	}
	return p.dropBridge(n.Bridge())
}

// dropBridge removes a bridge of which libvirt knows nothing.
func (p *Provider) dropBridge(name string) error {
	p.steps.next()
	if err := hostnet.RemoveBridge(name); err != nil {
		return providers.Errorf(providers.ErrUnavailable, "bridge "+name, "libvirt has left it, and it cannot be removed: %w", err)
	}
	return nil
}

// leaveLost takes a machine out of a network that libvirt does not have (any
// more), of which its UUID is known.
func (p *Provider) leaveLost(ctx context.Context, id types.UID, network string) error {
	unlock, err := p.locks.Lock(ctx, "network "+network)
	if err != nil {
		return err
	}
	defer unlock()
	for _, mode := range managedModes {
		err := p.fw.Revoke(mode, identity.Tap(p.opts.Instance, mode, id))
		if err != nil && !errors.Is(err, firewall.ErrNotPermitted) {
			return providers.Errorf(providers.ErrUnavailable, machineObject(id), "its firewall rules cannot be removed: %w", err)
		}
	}
	owners, err := p.networkOwners()
	if err != nil {
		return p.fileError(machineObject(id), err)
	}
	if len(owners[network]) == 1 {
		for _, name := range p.bridgesOf(network) {
			if err := p.dropBridge(name); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(p.data.networkRef(id)); err != nil {
		return p.fileError(machineObject(id), err)
	}
	return p.dropFirewall(ctx)
}

// managedModes are the modes for which networks are made.
var managedModes = []v1.NetworkMode{v1.NetworkIntnet, v1.NetworkHostOnly, v1.NetworkNAT}

// bridgesOf names what could be left of a network that only its UUID is known of.
func (p *Provider) bridgesOf(network string) []string {
	var names []string
	for _, mode := range managedModes {
		names = append(names, identity.BridgeOf(p.opts.Instance, mode, network))
	}
	return names
}

const bridgeResource = "bridge/"

// listBridges lists the bridges of our names that no network of libvirt's has.
// Those of networks that we know bear the whole of our instance in their name.
func (p *Provider) listBridges(networks []libvirt.Network, owners map[string][]types.UID) ([]providers.Resource, error) {
	view, err := hostnet.Look()
	if err != nil {
		return nil, providers.Errorf(providers.ErrUnavailable, "host network", "its links cannot be listed: %w", err)
	}
	used := map[string]bool{}
	for _, l := range networks {
		if n, ok := identity.ParseNetwork(p.opts.Instance, l.Name); ok {
			used[n.Bridge()] = true
		}
	}
	ours := map[string][]types.UID{identity.Network{Instance: p.opts.Instance, Mode: v1.NetworkNAT}.Bridge(): nil}
	for network, by := range owners {
		for _, name := range p.bridgesOf(network) {
			ours[name] = by
		}
	}
	var out []providers.Resource
	for name, link := range view.Links {
		if link.Kind != "bridge" || !strings.HasPrefix(name, identity.InstanceBridges(p.opts.Instance)) || used[name] {
			continue
		}
		r := providers.Resource{Kind: providers.ResourceNetwork, ID: bridgeResource + name, Ownership: providers.Ambiguous, Description: "bridge " + name}
		if by, known := ours[name]; known {
			r.Owners, r.Ownership = by, providers.Ours
		}
		out = append(out, r)
	}
	return out, nil
}

// removeBridge removes a bridge that listBridges has listed. One of ours that no
// machine needs is the nat network's.
func (p *Provider) removeBridge(ctx context.Context, object, name string) error {
	unlock, err := p.locks.Lock(ctx, "network "+identity.Network{Instance: p.opts.Instance, Mode: v1.NetworkNAT}.UUID())
	if err != nil {
		return err
	}
	defer unlock()
	networks, err := p.libvirtNetworks(ctx)
	if err != nil {
		return err
	}
	owners, err := p.networkOwners()
	if err != nil {
		return p.fileError(object, err)
	}
	list, err := p.listBridges(networks, owners)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(r providers.Resource) bool { return r.ID == bridgeResource+name })
	switch {
	case i < 0:
		return providers.Errorf(providers.ErrNotFound, object, "it does not exist, or is a network's")
	case list[i].Ownership != providers.Ours:
		return providers.Errorf(providers.ErrInvalid, object, "it is not known to be ours: it is left alone")
	case len(list[i].Owners) > 0:
		return providers.Errorf(providers.ErrBusy, object, "%d machines need it, such as %s", len(list[i].Owners), list[i].Owners[0])
	}
	return p.dropBridge(name)
}

// networkOwners lists the machines that need each network, by its UUID.
func (p *Provider) networkOwners() (map[string][]types.UID, error) {
	refs, err := filepath.Glob(filepath.Join(p.data.Machines(), "*", "network"))
	if err != nil {
		return nil, err
	}
	owners := map[string][]types.UID{}
	for _, path := range refs {
		ref, err := readNetworkRef(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		owners[ref.network] = append(owners[ref.network], types.UID(filepath.Base(filepath.Dir(path))))
	}
	return owners, nil
}
