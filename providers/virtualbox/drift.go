package virtualbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// What others change of a machine is found out without a further process:
//
//	showvminfo, asked anyway ──▶ flawsShown   name, sizes, cards, devices, folders, drives
//	the definition           ──▶ hidden       what showvminfo leaves out
//	                         ──▶ states       snapshots that are not ours
//	the headers of the disks ──▶ diskFlaws    files that are gone
//	the host's links         ──▶ linkFlaws    the adapter of a host-only network
//
// A machine that is being changed by us, or was and not to the end, has none.

// driftNotes are the drifts that machines were last seen with. While a call changes a
// machine they are told in place of what is seen then. The zero value is ready.
type driftNotes struct{ m sync.Map }

func (n *driftNotes) note(id types.UID, all []providers.Drift) {
	if len(all) == 0 {
		n.m.Delete(id)
		return
	}
	n.m.Store(id, all)
}

func (n *driftNotes) of(id types.UID) []providers.Drift {
	all, _ := n.m.Load(id)
	drifts, _ := all.([]providers.Drift)
	return slices.Clone(drifts)
}

// flaws are what VirtualBox and the definition show of a machine that is not as it
// was made. Those that were found are returned also when the definition cannot be
// read.
func (p *Provider) flaws(m machine) ([]flaw, error) {
	found := flawsShown(m.info, m.record, p.networkName(m.record), p.data.console(m.id))
	d, err := readDefinition(m.info["CfgFile"])
	if err != nil {
		return found, err
	}
	return append(found, d.flaws(m.record.SharedFolders)...), nil
}

// drifted is what others have changed of a machine that is whole, and which this
// process is not changing at the moment.
func (p *Provider) drifted(m machine) []providers.Drift {
	if !m.whole() || m.info == nil {
		return nil
	}
	found, _ := p.flaws(m)
	found = append(found, p.linkFlaws(m)...)
	if settled(m) {
		found = append(found, p.storageFlaws(m)...)
	}
	found = slices.DeleteFunc(found, func(f flaw) bool { return f.unfinished })
	var drifts []providers.Drift
	for _, f := range found {
		drifts = append(drifts, f.at(m.power))
	}
	return drifts
}

// at is a flaw of a machine in a power state. What must not run does no harm while it
// is off. What a saved machine does not let anybody change, and what is made anew
// before it goes on, is put right when it does: its memory is kept.
func (f flaw) at(power providers.Power) providers.Drift {
	d := f.Drift
	switch {
	case power == providers.PowerSaved && f.saved != nil:
		d.Remedy = providers.RemedyEnsure
	case power == providers.PowerOff && d.Remedy == providers.RemedyPowerOff,
		power == providers.PowerSaved && (f.live != nil || f.joins),
		power == providers.PowerSaved && d.Remedy == providers.RemedyPowerOff && !f.open:
		d.Remedy = providers.RemedyOff
	}
	return d
}

// settled tells whether VirtualBox is not at work on a machine's disks.
func settled(m machine) bool {
	return slices.Contains([]string{statePoweroff, "aborted", stateSaved, "aborted-saved", "abortedsaved", stateRunning, "paused"}, m.info["VMState"])
}

// linkFlaws: the adapter of a host-only network is gone, by hand or with a restart of
// the host. On other systems a link has another name.
func (p *Provider) linkFlaws(m machine) []flaw {
	if m.record.Network.Mode != v1.NetworkHostOnly || runtime.GOOS != "linux" && p.opts.links == nil {
		return nil
	}
	n, _ := networkOf(m.record)
	a, err := p.readAdapter(n)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []flaw{flawed(v1.ReasonNetworkChanged, providers.RemedyPowerOff, "its host-only network is gone")}
	case err != nil || a.Adapter == "" || strings.HasPrefix(a.Adapter, hostNetworkPrefix) || p.linkExists(a.Adapter):
		return nil
	}
	return []flaw{flawed(v1.ReasonNetworkChanged, providers.RemedyPowerOff, "the adapter %s of its host-only network is gone from the host", a.Adapter)}
}

// storageFlaws looks at the files of a machine's disks, and for snapshots that others
// took. What cannot be read just now is not judged.
func (p *Provider) storageFlaws(m machine) []flaw {
	states, err := readStates(m.info["CfgFile"], p.opts.Instance)
	if err != nil {
		return nil
	}
	found := snapshotFlaws(m, states)
	s, err := p.shelfOf(m.record, states)
	if err != nil {
		return found
	}
	return append(diskFlaws(m, p.data.MachineDir(m.id), s), found...)
}

// snapshotFlaws: VirtualBox's snapshots that are not ours.
func snapshotFlaws(m machine, states []state) []flaw {
	var names []string
	for _, s := range states {
		if s.note.ID == "" {
			names = append(names, s.name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	f := flawed(v1.ReasonForeignSnapshots, providers.RemedyNone, "it has snapshots that were taken by hand: %d, such as %s", len(names), shown(names[0]))
	f.Advice = fmt.Sprintf("delete them (VBoxManage snapshot %s list, and delete), or delete the sandbox", m.id)
	return []flaw{f}
}

// shelf is what there is of disks for a machine.
type shelf struct {
	// own are those in its folder, by their UUIDs, and below those that its own may
	// lie on. All of them are known if open is false.
	own, below map[string]vdi
	open       bool
	// lost is the file of the image's disk, if that is gone.
	lost   string
	states []state
	exists func(path string) bool
}

// currentShelf is shelfOf a machine with the states that are kept of it now.
func (p *Provider) currentShelf(m machine) (shelf, error) {
	states, err := p.statesOf(m.record)
	if err != nil {
		return shelf{}, err
	}
	s, err := p.shelfOf(m.record, states)
	if err != nil {
		return s, p.fileError(machineObject(m.id), err)
	}
	return s, nil
}

// shelfOf finds the disks of a machine, of those that it was forked from, and of its
// image.
func (p *Provider) shelfOf(r record, states []state) (shelf, error) {
	s := shelf{below: map[string]vdi{}, states: states, exists: present}
	var err error
	if s.own, err = vdisIn(p.vmDir(r)); err != nil {
		return s, err
	}
	for of, n := r, 0; of.Snapshot != nil && n < mostLayers; n++ {
		if of, err = p.readRecord(of.Snapshot.Machine); err != nil {
			s.open = true
			return s, nil
		}
		all, err := vdisIn(p.vmDir(of))
		if err != nil {
			return s, err
		}
		for id, v := range all {
			s.below[id] = v
		}
	}
	if (r.Image == providers.ImageRef{}) {
		return s, nil
	}
	var image sealed
	if err := p.data.ReadSeal(p.opts.Instance, r.Image, &image); err != nil || image.Adopted {
		s.open = true // somebody's own disks, of which nothing is known here
		return s, nil
	}
	switch v, err := readVDI(p.data.goldenDisk(r.Image)); {
	case err == nil:
		s.below[v.id] = v
	case errors.Is(err, fs.ErrNotExist):
		s.lost = p.data.goldenDisk(r.Image)
	default:
		s.open = true
	}
	return s, nil
}

// present tells whether a file is there, as far as that can be told.
func present(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// diskFlaws: a machine's own disk was taken out, or a file is gone that it needs.
func diskFlaws(m machine, dir string, s shelf) []flaw {
	own := disksWithin(m, dir)
	if f, some := someOut(m, len(own)); some {
		return []flaw{f}
	}
	if len(own) == 0 {
		if _, there := s.spare(m.record); there {
			return []flaw{flawed(v1.ReasonDiskChanged, providers.RemedyOff, "its own disk is not attached")}
		}
		return []flaw{lostDisk(m, "its disk is not attached, and its file is gone")}
	}
	var found []flaw
	for _, d := range own {
		if lost := s.missing(d); lost != "" {
			found = append(found, lostDisk(m, lost))
		}
	}
	return found
}

// someOut: of a machine with several disks not all are attached. Which belongs where
// is not known, so that only people can put it right; until then none is removed.
func someOut(m machine, attached int) (flaw, bool) {
	if m.record.Disks < 2 || attached >= m.record.Disks {
		return flaw{}, false
	}
	f := flawed(v1.ReasonDiskChanged, providers.RemedyNone, "it has %d of its %d disks attached", attached, m.record.Disks)
	f.Advice = "attach the others where they were (VBoxManage storageattach), or delete the sandbox"
	return f, true
}

// withAllDisks refuses to replace the disks of a machine of which not all are attached.
func (p *Provider) withAllDisks(m machine) error {
	f, some := someOut(m, len(p.ownDisks(m)))
	if !some {
		return nil
	}
	return providers.Errorf(providers.ErrInvalid, machineObject(m.id), "%s: %s", f.Detail, f.Advice).WithReason(f.Reason)
}

// disksWithin lists a machine's disks that lie in a folder.
func disksWithin(m machine, dir string) []disk {
	return slices.DeleteFunc(disksOf(m.info), func(d disk) bool { return !within(dir, d.path) })
}

// ownDisks lists a machine's disks that are its own.
func (p *Provider) ownDisks(m machine) []disk { return disksWithin(m, p.data.MachineDir(m.id)) }

// startable refuses to start a machine without its disk, which VirtualBox does.
func (p *Provider) startable(m machine) error {
	switch found, err := p.diskFlawsOf(m); {
	case err != nil:
		return err
	case len(found) == 0:
		return nil
	case found[0].Remedy == providers.RemedyNone:
		return providers.Errorf(providers.ErrInvalid, machineObject(m.id), "it was not started: %s: %s", found[0].Detail, found[0].Advice).WithReason(found[0].Reason)
	default:
		return providers.Errorf(providers.ErrUnavailable, machineObject(m.id), "it was not started: %s: ensure the machine again", found[0].Detail).WithReason(found[0].Reason)
	}
}

// diskThere refuses what needs the disk of a machine that has lost it.
func (p *Provider) diskThere(m machine) error {
	found, err := p.diskFlawsOf(m)
	if err != nil {
		return err
	}
	for _, f := range found {
		if f.Reason == v1.ReasonDiskLost {
			return providers.Errorf(providers.ErrInvalid, machineObject(m.id), "%s: %s", f.Detail, f.Advice).WithReason(f.Reason)
		}
	}
	return nil
}

// diskFlawsOf looks for what is wrong with a machine's disks.
func (p *Provider) diskFlawsOf(m machine) ([]flaw, error) {
	s, err := p.currentShelf(m)
	if err != nil {
		return nil, err
	}
	return diskFlaws(m, p.data.MachineDir(m.id), s), nil
}

// diskLost tells whether a machine's disk, or a file that it lies on, is gone.
func (p *Provider) diskLost(m machine) bool {
	found, err := p.diskFlawsOf(m)
	return err == nil && slices.ContainsFunc(found, func(f flaw) bool { return f.Reason == v1.ReasonDiskLost })
}

// missing says which file of a disk is gone; empty when none is known to be.
func (s shelf) missing(d disk) string {
	if !s.exists(d.path) {
		return fmt.Sprintf("the file %s of its disk is gone", shown(d.path))
	}
	v, known := s.own[d.medium]
	for n := 0; known && v.parent != "" && n < mostLayers; n++ {
		next, is := s.own[v.parent]
		if !is {
			next, is = s.below[v.parent]
		}
		if !is && s.lost != "" {
			return fmt.Sprintf("the file %s is gone, the disk of its image", shown(s.lost))
		}
		if !is && !s.open {
			return fmt.Sprintf("a file is gone that its disk lies on, the disk %s", v.parent)
		}
		v, known = next, is
	}
	return ""
}

// spare is the disk of a machine that has none attached: the one that was noted last,
// or the only one on which nothing lies and that is no snapshot's.
func (s shelf) spare(r record) (vdi, bool) {
	taken := disksUnder(s.states)
	for _, v := range s.own {
		taken[v.parent] = true
	}
	var found []vdi
	for id, v := range s.own {
		if !taken[id] && v.path == r.Disk {
			return v, true
		}
		if !taken[id] {
			found = append(found, v)
		}
	}
	if len(found) != 1 {
		return vdi{}, false
	}
	return found[0], true
}

// lostDisk is a flaw that only people can put right.
func lostDisk(m machine, detail string) flaw {
	f := flawed(v1.ReasonDiskLost, providers.RemedyNone, "%s", detail)
	f.Advice = fmt.Sprintf("put the file back, or have a fresh disk made with sandboxd revert %s golden -n %s, or delete the sandbox", m.record.Name, m.record.Namespace)
	if m.on() {
		f.Detail += "; what the guest has written is lost once it is off"
		f.Advice = "copy out what is needed while it runs; then " + f.Advice
	}
	return f
}

// undamaged refuses to change a machine that has a flaw which only people can put
// right.
func (p *Provider) undamaged(m machine) error {
	for _, d := range p.drifted(m) {
		if d.Remedy == providers.RemedyNone {
			return providers.Errorf(providers.ErrInvalid, machineObject(m.id), "%s: %s", d.Detail, d.Advice).WithReason(d.Reason)
		}
	}
	return nil
}
