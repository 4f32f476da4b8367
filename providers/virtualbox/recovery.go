package virtualbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// VirtualBox names a host-only adapter itself, when it is there already. So what
// a process has to remember is in three files, whenever it ends:
//
//	KEY.json without a name, and     KEY.answer, written     KEY.json with
//	with the adapters of before ──▶  by VBoxManage itself ──▶ the name
//	              │                        │
//	              │                        └─▶ that adapter is ours
//	              └─▶ an adapter that is new since may be ours, or somebody else's:
//	                  it is noted as NAME.doubt and reported, and never touched

// recover finds out what became of an adapter that an earlier process was making.
// fs.ErrNotExist: there is none that is known to be ours.
func (p *Provider) recover(a adapter, present map[string]string) (adapter, error) {
	if name, ok := p.answer(a.network); ok {
		a.Adapter, a.Before = name, nil
		return a, p.writeAdapter(a)
	}
	info, err := os.Stat(p.adapterFile(a.network))
	if err != nil {
		return a, err
	}
	// The call has no more time than this, and does not end with the process.
	if age := time.Since(info.ModTime()); age >= 0 && age < vboxmanage.Quick {
		return a, providers.Errorf(providers.ErrBusy, a.String(), "VBoxManage may be making its adapter for an earlier run of sandboxd: tried again within a minute")
	}
	if err := p.giveUp(a, present); err != nil {
		return a, err
	}
	return a, fmt.Errorf("%s was never named: %w", a.String(), fs.ErrNotExist)
}

// giveUp forgets an adapter that VirtualBox gave no name, and notes which there
// are that may be it.
func (p *Provider) giveUp(a adapter, present map[string]string) error {
	ours, err := p.adapters()
	if err != nil {
		return p.fileError(a.String(), err)
	}
	for _, name := range sortedKeys(present) {
		known := slices.Contains(a.Before, name) || slices.ContainsFunc(ours, func(o adapter) bool { return o.Adapter == name })
		if known {
			continue
		}
		if err := p.doubtWhose(name, a.network); err != nil {
			return err
		}
	}
	for _, path := range []string{p.answerFile(a.network), p.adapterFile(a.network)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return p.fileError(a.String(), err)
		}
	}
	return nil
}

// doubtWhose notes an adapter that may be ours, or somebody else's.
func (p *Provider) doubtWhose(name string, n network) error {
	if !safeName(name) {
		return nil
	}
	b, err := json.Marshal(doubt{Adapter: name, Network: n.id()})
	if err != nil {
		return err
	}
	p.log.Info("a host-only adapter is left alone, because it may be somebody else's", "adapter", name, "network", n.id())
	return p.fileError(n.String(), files.Write(p.doubtFile(name), b, datafolder.FileMode))
}

// doubt is a host-only adapter of which it is not known whose it is: it came to be
// while one of ours was made, or has the name of ours and another address.
type doubt struct {
	Adapter string `json:"adapter"`
	// Network that it may have been made for.
	Network string `json:"network"`
}

// safeName tells whether an adapter's name can be part of a file's.
func safeName(name string) bool {
	return adapterCreated.MatchString("Interface '" + name + "' was successfully created")
}

func (p *Provider) doubtFile(name string) string {
	return filepath.Join(p.data.networks(), name+".doubt")
}

// doubts lists the adapters that may be ours, as long as the host has them and
// they are not known to be ours by now.
func (p *Provider) doubts(ours []adapter) ([]providers.Resource, error) {
	entries, err := os.ReadDir(p.data.networks())
	if err != nil {
		return nil, err
	}
	var out []providers.Resource
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".doubt")
		if !ok {
			continue
		}
		gone := !p.linkExists(name) || slices.ContainsFunc(ours, func(a adapter) bool { return a.Adapter == name })
		if gone {
			if err := os.Remove(p.doubtFile(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			continue
		}
		out = append(out, providers.Resource{
			Kind: providers.ResourceNetwork, ID: "adapters/" + name, Ownership: providers.Ambiguous,
			Description: "host-only adapter " + name + ", which sandboxd may have made, or somebody else: if nobody uses it, remove it by VBoxManage hostonlyif remove " + name,
		})
	}
	return out, nil
}

// linkExists tells whether the host has a network link.
func (p *Provider) linkExists(name string) bool {
	if p.opts.links != nil {
		return p.opts.links(name)
	}
	_, err := net.InterfaceByName(name)
	return err == nil
}
