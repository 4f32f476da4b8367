package virtualbox

import (
	"context"
	"slices"
	"strings"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// changeForwards changes the port forwards of a machine that is not off, and its
// record. The record names first the ports that there will be, so that whatever the
// machine's process opens is its own after a crash too, and last that it is done. A
// machine whose start was cut off is confirmed.
func (p *Provider) changeForwards(ctx context.Context, spec providers.MachineSpec, was machine) error {
	was, err := p.mend(ctx, was)
	if err != nil {
		return err
	}
	if err := p.noteSizes(was.record, spec); err != nil {
		return err
	}
	r := was.record
	want := spec.Network.PortForwards
	if r.Network.Mode != v1.NetworkNAT {
		want = nil // the machine is on another network until it is off
	}
	forwards, err := p.ports.reserve(spec.ID, want, slices.Concat(r.Network.PortForwards, openForwards(was.info)))
	if err != nil {
		return err
	}
	if !slices.Equal(r.Network.PortForwards, forwards) {
		r.Network.PortForwards, r.Hashes.Forwards = forwards, ""
		if err := p.writeRecord(r); err != nil {
			return err
		}
	}
	if r.Network.Mode == v1.NetworkNAT && was.info["nic1"] != string(v1.NetworkNAT) {
		return unplugged(spec, r) // nothing is forwarded there, until it is off
	}
	if err := p.setRules(ctx, was, forwards); err != nil {
		return err
	}
	if was.power == providers.PowerRunning {
		if err := awaitOpen(ctx, spec.ID, forwards); err != nil {
			return err
		}
	}
	if hash := spec.Hashes().Forwards; r.Hashes.Forwards != hash {
		r.Hashes.Forwards = hash
		if err := p.writeRecord(r); err != nil {
			return err
		}
	}
	if r.Starting && was.power == providers.PowerRunning {
		return p.confirm(ctx, spec.ID)
	}
	return nil
}

// unplugged refuses other port forwards of a machine whose card somebody has connected
// elsewhere.
func unplugged(spec providers.MachineSpec, r record) error {
	if r.Hashes.Forwards == spec.Hashes().Forwards {
		return nil
	}
	return providers.Errorf(providers.ErrBusy, machineObject(spec.ID), "its network card was connected elsewhere, so that no port can be forwarded: stop it first")
}

// setRules makes the port forwards of a machine that is not off what they ought to
// be.
func (p *Provider) setRules(ctx context.Context, m machine, forwards []v1.PortForward) error {
	if m.info["nic1"] != string(v1.NetworkNAT) {
		return nil // VirtualBox shows none of another card, and changes those of the NAT
	}
	for _, step := range ruleChanges(forwardsOf(m.info), rulesOf(forwards)) {
		args := append([]string{"controlvm", string(m.id), "natpf1"}, step...)
		if m.power == providers.PowerSaved {
			args = append([]string{"modifyvm", string(m.id), "--nat-pf1"}, step...)
		}
		if _, err := p.manage(ctx, m.id, 0, args...); err != nil {
			return err
		}
	}
	return nil
}

// finishForwards brings the port forwards of a machine that is not off to what its
// record names, if a change of them was cut off, and looks at it again.
func (p *Provider) finishForwards(ctx context.Context, m machine) (machine, error) {
	if m.record.Hashes.Forwards != "" || !m.whole() {
		return m, nil
	}
	if err := p.setRules(ctx, m, m.record.Network.PortForwards); err != nil {
		return m, err
	}
	return p.look(ctx, m.id)
}

// ruleChanges are the arguments that turn rules into others, one step after the
// other: first what goes, then what comes.
func ruleChanges(have, want []string) [][]string {
	var steps [][]string
	for _, rule := range have {
		if !slices.Contains(want, rule) {
			name, _, _ := strings.Cut(rule, ",")
			steps = append(steps, []string{"delete", name})
		}
	}
	for _, rule := range want {
		if !slices.Contains(have, rule) {
			steps = append(steps, []string{rule})
		}
	}
	return steps
}
