package virtualbox

import (
	"context"
	"errors"
	"path/filepath"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/machinespec"
	"sandboxd.dev/sandboxd/providers/internal/seed"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// EnsureMachine implements providers.Machines. A machine that has no folder of
// ours yet is cloned without being looked for first: VirtualBox refuses a UUID
// that it knows.
func (p *Provider) EnsureMachine(ctx context.Context, spec providers.MachineSpec) error {
	return p.again(ctx, spec.ID, func() error { return p.ensure(ctx, spec) })
}

func (p *Provider) ensure(ctx context.Context, spec providers.MachineSpec) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	if err := validate(spec); err != nil {
		return err
	}
	unlock, err := p.locks.Lock(ctx, machineObject(spec.ID))
	if err != nil {
		return err
	}
	defer unlock()
	defer p.watch.poke(spec.ID)
	p.watch.change(spec.ID)
	var was machine
	if files.Exists(p.data.MachineDir(spec.ID)) {
		was, err = p.look(ctx, spec.ID)
		if errors.Is(err, providers.ErrNotFound) && !errors.Is(err, errForeign) {
			was, err = p.missing(spec.ID)
		}
		switch {
		case errors.Is(err, errForeign):
			return foreign(spec.ID)
		case err != nil:
			return err
		}
		if err := p.undamaged(was); err != nil {
			return err
		}
		switch {
		case was.info == nil: // VirtualBox does not have it
		case was.power != providers.PowerOff && was.whole():
			return p.changeForwards(ctx, spec, was)
		case was.power == providers.PowerSaved: // a clone of an online snapshot, not prepared yet
			if _, err := p.manage(ctx, spec.ID, 0, "discardstate", string(spec.ID)); err != nil {
				return err
			}
		}
	}
	return p.make(ctx, spec, was)
}

func foreign(id types.UID) error {
	return providers.Errorf(providers.ErrAlreadyExists, machineObject(id), "VirtualBox has a machine of that UUID which is not ours: it is left alone")
}

// make makes a machine that is off, or does not exist, what the spec says. The
// record says first what is being done, so that whatever is left by a crash has
// an owner, and last that it is done.
func (p *Provider) make(ctx context.Context, spec providers.MachineSpec, was machine) error {
	object := machineObject(spec.ID)
	if err := p.checkHost(ctx, spec); err != nil {
		return err
	}
	r := record{
		Instance: p.opts.Instance, ID: spec.ID, Namespace: spec.Namespace, Name: spec.Name,
		VM: was.record.VM, Image: spec.Image, Network: spec.Network, SharedFolders: spec.SharedFolders,
		Engine: p.opts.Engine, DiscardOnStop: spec.DiscardOnStop,
		DiskBytes: was.record.DiskBytes, Disk: was.record.Disk, Kept: was.record.Kept, Fresh: was.record.Fresh, Forced: was.record.Forced,
		Snapshot: spec.Snapshot, Reverted: was.record.Reverted, Installer: was.record.Installer,
		CPUs: was.record.CPUs, MemoryBytes: was.record.MemoryBytes, Disks: was.record.Disks,
	}
	if was.record.VM == "" {
		r.VM = vmName(spec.Namespace, spec.Name, string(spec.ID)[:8])
	} else if was.record.Disk != "" {
		r.Image, r.Snapshot = was.record.Image, was.record.Snapshot // the disk stays on what it was cloned from
	}
	if was.info != nil && was.whole() && r.MemoryBytes == 0 { // as an earlier version noted it
		r.CPUs, r.MemoryBytes = spec.CPUs, spec.MemoryBytes
	}
	if spec.Install != nil && r.Installer == "" {
		r.Installer = answersOurs // there is something to remove from here on
	}
	image, err := p.originalOf(ctx, spec, r)
	if err != nil {
		return err
	}
	release, err := p.origin(ctx, spec, was, &r)
	if err != nil {
		return err
	}
	defer release()
	if err := machinespec.CheckDisk(object, spec.DiskBytes, image.Image); err != nil {
		return err
	}
	if r.Network.PortForwards, err = p.ports.reserve(spec.ID, spec.Network.PortForwards, was.record.Network.PortForwards); err != nil {
		return err
	}
	if was.info != nil && was.record.Hashes == spec.Hashes() && was.record.Engine == r.Engine && p.isConfigured(was) {
		return p.noteSizes(was.record, spec)
	}
	if err := p.begin(r); err != nil {
		return err
	}
	if err := p.joinNetwork(ctx, r); err != nil {
		return err
	}
	if had, ok := networkOf(was.record); ok {
		if err := p.leaveNetwork(ctx, had); err != nil {
			return err
		}
	}
	switch {
	case machinespec.Installed(spec):
		if was, err = p.furnish(ctx, spec, &r, was); err != nil {
			return err
		}
	case was.info == nil:
		var defined bool
		if was, defined, err = p.clone(ctx, spec, &r, image); err != nil || defined {
			return err
		}
	case r.Kept != "": // it was cloned, and what makes it was cut off
		if was, err = p.putBack(ctx, &r, was); err != nil {
			return err
		}
	}
	return p.prepare(ctx, spec, r, was, image)
}

// isConfigured tells whether a machine that is off, and whose record fits its
// spec, is still configured so.
func (p *Provider) isConfigured(m machine) bool {
	isolated, _ := p.isolated(m)
	_, seeded, _ := seedSlot(m.info, p.seed(m.record))
	return isolated && seeded && p.hasInstaller(m) && len(p.drifted(m)) == 0
}

// noteSizes completes the record of a machine that an earlier version made.
func (p *Provider) noteSizes(r record, spec providers.MachineSpec) error {
	if r.MemoryBytes != 0 || r.Hashes.Hardware != spec.Hashes().Hardware {
		return nil
	}
	r.CPUs, r.MemoryBytes = spec.CPUs, spec.MemoryBytes
	return p.writeRecord(r)
}

// originalOf returns the sealed image that a machine is cloned from; none for one
// whose disk an installer makes.
func (p *Provider) originalOf(ctx context.Context, spec providers.MachineSpec, r record) (sealed, error) {
	made := r.Disk != "" && r.Image == providers.ImageRef{}
	switch {
	case machinespec.Installed(spec):
		return sealed{}, p.checkInstalled(spec, r)
	case made:
		return sealed{}, providers.Errorf(providers.ErrInvalid, machineObject(spec.ID), "its disk lies on no image, because an installer made it: delete the machine")
	}
	return p.imageFor(ctx, spec, r.Image)
}

// imageFor returns the sealed image that a machine is cloned from. Without it the
// caller is told first if the machine would be refused anyway.
func (p *Provider) imageFor(ctx context.Context, spec providers.MachineSpec, ref providers.ImageRef) (sealed, error) {
	if err := datafolder.CheckRef(ref); err != nil {
		return sealed{}, err
	}
	s, err := p.readSealed(ref)
	if errors.Is(err, providers.ErrNotFound) {
		if _, lookErr := p.look(ctx, spec.ID); errors.Is(lookErr, errForeign) {
			return s, foreign(spec.ID)
		}
	}
	return s, err
}

// begin notes what is going to be done.
func (p *Provider) begin(r record) error {
	p.steps.next()
	if err := files.Mkdir(p.data.MachineDir(r.ID), dirMode); err != nil {
		return p.fileError(machineObject(r.ID), err)
	}
	r.Hashes = providers.Hashes{}
	return p.writeRecord(r)
}

// prepare configures a machine that is off and notes that it is done.
func (p *Provider) prepare(ctx context.Context, spec providers.MachineSpec, r record, now machine, image sealed) error {
	id := string(spec.ID)
	for _, putRight := range []func(context.Context, machine) (machine, error){p.rename, p.unplug, p.reattach} {
		var err error
		if now, err = putRight(ctx, now); err != nil {
			return err
		}
	}
	if now.record.Network.Mode == v1.NetworkNAT || r.Network.Mode == v1.NetworkNAT {
		var err error
		if now, err = p.showRules(ctx, now); err != nil {
			return err
		}
	}
	disks := disksOf(now.info)
	if len(disks) == 0 {
		return providers.Errorf(providers.ErrInvalid, machineObject(spec.ID), "somebody took its disk out: delete the sandbox and apply it again")
	}
	r.Disk = disks[0].path
	if err := p.grow(ctx, &r, disks[0], spec.DiskBytes, image); err != nil {
		return err
	}
	if _, err := p.manage(ctx, spec.ID, 0, append([]string{"modifyvm", id}, p.planOf(spec, r, image).arguments(now.info)...)...); err != nil {
		return err
	}
	if err := p.offerFolders(ctx, spec, now.info); err != nil {
		return err
	}
	if err := p.insertSeed(ctx, spec, p.seed(r), now.info); err != nil {
		return err
	}
	if r.MemoryBytes == 0 { // made for the first time: nobody has put a disk into its folder yet
		r.Disks = len(p.ownDisks(now))
	}
	r.Hashes, r.CPUs, r.MemoryBytes = spec.Hashes(), spec.CPUs, spec.MemoryBytes
	return p.writeRecord(r)
}

// unplug takes out of a machine's drives what is not its own, and from its
// definition what changes VirtualBox's insides: an adopted machine's, which its
// clones have as well.
func (p *Provider) unplug(ctx context.Context, m machine) (machine, error) {
	id := string(m.id)
	var steps [][]string
	disks, _ := attached(m.info)
	for _, d := range strangers(m.info, p.data.MachineDir(m.id)) {
		empty := emptyDrive
		switch {
		case slices.Contains(disks, d) && m.once():
			empty = noDrive
		case slices.Contains(disks, d):
			return m, providers.Errorf(providers.ErrInvalid, machineObject(m.id), "its image's machine has the disk %s, which VirtualBox does not clone because snapshots leave it out (it is write-through, shareable or read-only): take it out of that machine, or make it a normal disk, and adopt a new snapshot", d.path)
		}
		steps = append(steps, []string{"storageattach", id, "--storagectl", d.controller, "--port", d.port, "--device", d.device, "--medium", empty})
	}
	h, err := readDefinition(m.info["CfgFile"])
	if err != nil {
		return m, p.fileError(machineObject(m.id), err)
	}
	for _, name := range h.internals() {
		steps = append(steps, []string{"setextradata", id, name}) // without a value: it goes
	}
	for _, args := range steps {
		if _, err := p.manage(ctx, m.id, 0, args...); err != nil {
			return m, err
		}
	}
	if len(steps) == 0 {
		return m, nil
	}
	return p.look(ctx, m.id)
}

// planOf is what a machine's configuration is to be.
func (p *Provider) planOf(spec providers.MachineSpec, r record, image sealed) plan {
	return plan{
		spec: spec, instance: p.opts.Instance, engine: p.opts.Engine, adopted: image.Adopted,
		network: p.networkName(r), forwards: r.Network.PortForwards, console: p.data.console(spec.ID), installer: r.Installer,
	}
}

// grow makes a disk at least so large. It never shrinks.
func (p *Provider) grow(ctx context.Context, r *record, d disk, size int64, image sealed) error {
	size = (size + 511) &^ 511 // the sectors that a disk consists of
	if size <= max(r.DiskBytes, image.Image.VirtualSize) {
		return nil
	}
	if _, err := p.manage(ctx, r.ID, 0, "modifymedium", "disk", d.medium, "--resizebyte", formatBytes(size)); err != nil {
		return err
	}
	r.DiskBytes = size
	return nil
}

// offerFolders makes the shared folders what the spec says. Whether one is
// read-only VirtualBox does not show, so all are made anew.
func (p *Provider) offerFolders(ctx context.Context, spec providers.MachineSpec, now vboxmanage.Info) error {
	for _, name := range sortedKeys(foldersOf(now)) {
		if _, err := p.manage(ctx, spec.ID, 0, "sharedfolder", "remove", string(spec.ID), "--name", name); p.ignoreMissing(err) != nil {
			return err
		}
	}
	for _, f := range spec.SharedFolders {
		args := []string{"sharedfolder", "add", string(spec.ID), "--name", f.Name, "--hostpath", f.HostPath}
		if f.IsReadOnly() {
			args = append(args, "--readonly")
		}
		if _, err := p.manage(ctx, spec.ID, 0, args...); err != nil {
			return err
		}
	}
	return nil
}

// writeSeed writes the cloud-init seed, or the answers for the installer in its
// place, unless it is there already.
func (p *Provider) writeSeed(spec providers.MachineSpec, path string) error {
	write := func() error { return seed.Write(path, spec, p.steps.next) }
	if spec.Install != nil {
		write = func() error { return seed.WriteAnswers(path, spec, installDisk, p.steps.next) }
	}
	return p.fileError(machineObject(spec.ID), write())
}

// insertSeed writes the seed and inserts it.
func (p *Provider) insertSeed(ctx context.Context, spec providers.MachineSpec, path string, now vboxmanage.Info) error {
	if err := p.writeSeed(spec, path); err != nil {
		return err
	}
	slot, inserted, ok := seedSlot(now, path)
	switch {
	case inserted:
		return nil
	case !ok:
		return providers.Errorf(providers.ErrUnsupported, machineObject(spec.ID), "its image's machine has no free place for a DVD drive, which the cloud-init seed needs: give its storage controller one port more")
	}
	_, err := p.manage(ctx, spec.ID, 0, "storageattach", string(spec.ID), "--storagectl", slot.controller,
		"--port", slot.port, "--device", slot.device, "--type", "dvddrive", "--medium", path)
	return err
}

// logOf is the log of a machine's present, or last, run.
func (p *Provider) logOf(r record) string { return filepath.Join(p.vmDir(r), "Logs", "VBox.log") }

// seed is a machine's cloud-init seed. It is in VirtualBox's folder, so that
// VirtualBox forgets it together with the machine.
func (p *Provider) seed(r record) string { return filepath.Join(p.vmDir(r), seedName) }

const seedName = "seed.iso"
