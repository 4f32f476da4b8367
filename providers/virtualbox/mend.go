package virtualbox

import (
	"context"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// mend puts right what others have changed of a machine that is on or saved, as far
// as VirtualBox lets that be done, and looks at it again if there was something.
func (p *Provider) mend(ctx context.Context, m machine) (machine, error) {
	found, _ := p.flaws(m)
	steps := mending(found, m)
	for _, args := range steps {
		if _, err := p.manage(ctx, m.id, 0, args...); err != nil {
			return m, err
		}
	}
	if len(steps) == 0 {
		return m, nil
	}
	p.log.Info("what others changed of a machine is put back", "machine", m.id, "what", providers.Details(p.drifted(m)))
	return p.look(ctx, m.id)
}

// mending are the arguments of the calls that put flaws right at once.
func mending(found []flaw, m machine) [][]string {
	var steps [][]string
	for _, f := range found {
		switch {
		case m.on() && f.live != nil:
			steps = append(steps, append([]string{"controlvm", string(m.id)}, f.live...))
		case m.power == providers.PowerSaved && f.saved != nil:
			steps = append(steps, append([]string{"modifyvm", string(m.id)}, f.saved...))
		}
	}
	return steps
}

// rename gives a machine that is off its name again. Its folder has it too.
func (p *Provider) rename(ctx context.Context, m machine) (machine, error) {
	if m.record.VM == "" || m.info["name"] == m.record.VM {
		return m, nil
	}
	if _, err := p.manage(ctx, m.id, 0, "modifyvm", string(m.id), "--name", m.record.VM); err != nil {
		return m, err
	}
	return p.look(ctx, m.id)
}

// reattach attaches the disk of a machine that is off and has none of its own.
func (p *Provider) reattach(ctx context.Context, m machine) (machine, error) {
	if !m.once() || len(disksOf(m.info)) > 0 {
		return m, nil
	}
	s, err := p.currentShelf(m)
	if err != nil {
		return m, err
	}
	spare, there := s.spare(m.record)
	at, room := emptyPlace(m)
	if !there || !room {
		return m, nil // prepare says so
	}
	if _, err := p.attachOwn(ctx, m.record, at, spare.path); err != nil {
		return m, err
	}
	return p.look(ctx, m.id)
}

// emptyPlace is the first place for a disk: that of a machine's own, unless somebody
// has put its drives elsewhere.
func emptyPlace(m machine) (disk, bool) {
	_, others := attached(m.info)
	for _, d := range others {
		if d.path == noDrive && !d.floppy {
			return d, true
		}
	}
	return disk{}, false
}

// showRules connects the card of a machine that is off to the NAT, if it is not. Of
// another card VirtualBox does not show the port forwards, which it keeps all the same
// for when it is one again.
func (p *Provider) showRules(ctx context.Context, m machine) (machine, error) {
	if !m.once() || m.info["nic1"] == string(v1.NetworkNAT) {
		return m, nil
	}
	if _, err := p.manage(ctx, m.id, 0, "modifyvm", string(m.id), "--nic1", string(v1.NetworkNAT)); err != nil {
		return m, err
	}
	return p.look(ctx, m.id)
}
