package virtualbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"sandboxd.dev/sandboxd/disk/block"
	"sandboxd.dev/sandboxd/guest/unattended"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/installer"
	"sandboxd.dev/sandboxd/providers/internal/seed"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// A machine that installs a system has a disk of its own, which lies on none:
//
//	createvm ──▶ storagectl ──▶ createmedium, attached ──▶ installer copied
//	  ──▶ into the first drive:  by unattended install, where VirtualBox knows it
//	                             as it is, elsewhere
//	  ──▶ as of any machine, with the answers in the place of the seed
//	started, it installs and powers off
//	without Install ──▶ the disk boots? ──▶ drives emptied, installer removed
//
// Whatever is cut off is done again from its beginning, except for the disk and the
// copy of the installer, which are kept once they are whole.

// instructions is how an installer is told what to do.
type instructions string

const (
	// answersOurs: by guest/unattended's answers, which have it power off.
	answersOurs instructions = "answers"
	// answersVirtualBox: by VirtualBox's own templates. The installed system, which
	// some of them start, powers off.
	answersVirtualBox instructions = "templates"
)

// bootOrder are the arguments of modifyvm for it. Our own answers have the installer
// power off; what VirtualBox's templates do may go on from the disk.
func (a instructions) bootOrder() []string {
	switch a {
	case answersOurs:
		return []string{"--boot1", "dvd", "--boot2", "disk"}
	case answersVirtualBox:
		return []string{"--boot1", "disk", "--boot2", "dvd"}
	}
	return nil
}

const (
	// installDisk is what a guest calls the disk to install on.
	installDisk = "/dev/sda"
	// Places of the disk, and of the installer: firmware boots from the first CD that
	// it finds, so that the answers come after it.
	diskPort, installerPort = "0", "1"
	installPorts            = "3"
)

// media are the files of a machine's installer, in VirtualBox's folder like the seed.
func (p *Provider) media(r record) installer.Media {
	return installer.Media{Object: machineObject(r.ID), Dir: p.vmDir(r), Step: p.steps.next}
}

// checkInstalled tells whether a machine, as its record has it, can have its disk made
// by an installer, or go on with the one that it has: an installer that gave up powers
// its machine off like one that is done.
func (p *Provider) checkInstalled(spec providers.MachineSpec, r record) error {
	invalid := func(format string, args ...any) error {
		return providers.Errorf(providers.ErrInvalid, machineObject(spec.ID), format, args...)
	}
	switch {
	case r.Image != providers.ImageRef{}:
		return invalid("its disk lies on image %s, and nothing can be installed on it: delete the machine", r.Image)
	case spec.Install != nil:
		return nil
	case r.Disk == "":
		return invalid("it has neither an image nor an installer")
	case r.Installer == "":
		return nil
	}
	boots, err := p.boots(r)
	if err == nil && !boots {
		err = invalid("its installer ended and left nothing on the disk that boots: see the last lines of its console")
	}
	return p.fileError(machineObject(spec.ID), err)
}

// boots tells whether firmware would take a machine's disk for one to boot from.
func (p *Provider) boots(r record) (bool, error) {
	chain, err := p.below(r, r.Disk)
	if err != nil {
		return false, err
	}
	top, err := readVDI(r.Disk)
	if err != nil {
		return false, err
	}
	d := providers.Disk{Size: top.size}
	defer d.Close()
	for _, v := range append(chain, top) {
		f, err := os.Open(v.path)
		if err != nil {
			return false, err
		}
		d.Layers = append([]providers.DiskLayer{{File: f, Format: v1.DiskFormatVDI}}, d.Layers...)
	}
	disk, err := composed(d)
	if err != nil {
		return false, err
	}
	return hasBootSector(disk)
}

// hasBootSector tells whether the first sector has the signature that those of a
// partition table, of either kind, have as well.
func hasBootSector(d *block.Disk) (bool, error) {
	var signature [2]byte
	_, err := d.ReadAt(signature[:], 510)
	return signature == [2]byte{0x55, 0xaa}, err
}

// furnish makes a machine that is off with a disk of its own, or finds it made, and
// puts its installer in, or out when that is done.
func (p *Provider) furnish(ctx context.Context, spec providers.MachineSpec, r *record, m machine) (machine, error) {
	var err error
	if m.info == nil {
		if m, err = p.create(ctx, spec, *r); err != nil {
			return m, err
		}
	}
	if m, err = p.ensureDisk(ctx, spec, r, m); err != nil {
		return m, err
	}
	if spec.Install == nil {
		return p.endInstall(ctx, r, m)
	}
	return p.insertInstaller(ctx, spec, r)
}

// create makes a machine without anything. A disk that the record names, of a machine
// that others removed, stays.
func (p *Provider) create(ctx context.Context, spec providers.MachineSpec, r record) (machine, error) {
	kept := r.Disk != "" && within(p.vmDir(r), r.Disk) && files.Exists(r.Disk)
	if err := p.clearFolder(ctx, r, kept); err != nil {
		return machine{}, err
	}
	_, err := p.manage(ctx, r.ID, vboxmanage.Slow, "createvm", "--name", r.VM, "--uuid", string(r.ID),
		"--ostype", osType(spec.OSType), "--basefolder", p.data.MachineDir(r.ID), "--register")
	if err != nil {
		if err := p.notCloned(ctx, r, err); !errors.Is(err, providers.ErrInvalid) {
			return machine{}, err
		}
		return machine{}, providers.Errorf(providers.ErrInvalid, machineObject(r.ID), "it cannot be made; is spec.machine.osType %q one of `VBoxManage list ostypes`? %w", osType(spec.OSType), said(err))
	}
	return p.look(ctx, r.ID)
}

// ensureDisk makes the disk to install on, or keeps the one that there is.
func (p *Provider) ensureDisk(ctx context.Context, spec providers.MachineSpec, r *record, m machine) (machine, error) {
	if len(disksOf(m.info)) > 0 {
		return m, p.measure(r, m)
	}
	if !hasController(m.info, controller) {
		if _, err := p.manage(ctx, r.ID, 0, "storagectl", string(r.ID), "--name", controller, "--add", "sata",
			"--controller", "IntelAhci", "--portcount", installPorts, "--bootable", "on"); err != nil {
			return m, err
		}
	}
	var stack []string // what is attached, one after the other, so that VirtualBox knows it all
	switch {
	case r.Disk != "" && files.Exists(r.Disk):
		chain, err := p.below(*r, r.Disk)
		if err != nil {
			return m, err
		}
		for _, v := range chain {
			stack = append(stack, v.path)
		}
		stack = append(stack, r.Disk)
	case spec.Install == nil:
		return m, providers.Errorf(providers.ErrInvalid, machineObject(r.ID), "its disk, with what was installed on it, is gone: delete it and apply it again")
	default: // what an earlier call has left is nobody's
		if err := p.closeMedia(ctx, r.ID, p.vmDir(*r)); err != nil {
			return m, err
		}
		path := freeDisk(p.vmDir(*r), 0)
		if _, err := p.manage(ctx, r.ID, vboxmanage.Slow, "createmedium", "disk", "--filename", path,
			"--format", "VDI", "--sizebyte", formatBytes((spec.DiskBytes+minDisk-1)&^(minDisk-1))); err != nil {
			return m, err
		}
		stack = []string{path}
	}
	for _, path := range stack {
		if err := p.attach(ctx, r.ID, disk{controller: controller, port: diskPort, device: "0"}, path); err != nil {
			return m, err
		}
	}
	m, err := p.look(ctx, r.ID)
	if err != nil {
		return m, err
	}
	return m, p.measure(r, m)
}

// measure notes how large the disk is: no image says that.
func (p *Provider) measure(r *record, m machine) error {
	disks := disksOf(m.info)
	if len(disks) == 0 {
		return nil // prepare says so
	}
	v, err := readVDI(disks[0].path)
	r.DiskBytes = v.size
	return p.fileError(machineObject(r.ID), err)
}

// insertInstaller copies the installer and puts it in a drive, in the place of what an
// earlier call has put there.
func (p *Provider) insertInstaller(ctx context.Context, spec providers.MachineSpec, r *record) (machine, error) {
	media := p.media(*r)
	if err := media.Bring(ctx, *spec.Install); err != nil {
		return machine{}, p.fileError(media.Object, err)
	}
	iso, err := os.Open(media.ISO())
	if err != nil {
		return machine{}, p.fileError(media.Object, err)
	}
	defer func() { _ = iso.Close() }()
	known, err := unattended.Recognise(iso)
	if err != nil {
		return machine{}, providers.Errorf(providers.ErrInvalid, media.Object, "its installer is no CD that can be booted: %w", err)
	}
	found, err := p.detect(ctx, media)
	if err != nil {
		return machine{}, err
	}
	m, err := p.look(ctx, r.ID)
	if err != nil {
		return m, err
	}
	if m, err = p.eject(ctx, *r, m); err != nil {
		return m, err
	}
	r.Installer = answersOurs
	medium := emptyDrive // for VirtualBox, which takes the first drive for what it makes
	if !found.supported {
		medium = media.ISO()
	}
	if _, err := p.manage(ctx, r.ID, 0, "storageattach", string(r.ID), "--storagectl", controller,
		"--port", installerPort, "--device", "0", "--type", "dvddrive", "--medium", medium); err != nil {
		return m, err
	}
	switch {
	case !found.supported:
	case known != nil:
		err = p.unattendedByUs(ctx, spec, *r, known)
	default:
		r.Installer = answersVirtualBox
		err = p.unattendedByVirtualBox(ctx, spec, *r, found)
	}
	if err != nil {
		return m, err
	}
	return p.look(ctx, r.ID)
}

// endInstall puts an installer out whose work was looked at, and removes it.
func (p *Provider) endInstall(ctx context.Context, r *record, m machine) (machine, error) {
	if r.Installer == "" {
		return m, nil
	}
	m, err := p.eject(ctx, *r, m)
	if err != nil {
		return m, err
	}
	if err := p.media(*r).Clear(); err != nil {
		return m, p.fileError(machineObject(r.ID), err)
	}
	r.Installer = ""
	return m, nil
}

// hasInstaller tells whether something besides the seed is in a machine's drives if,
// and only if, it installs.
func (p *Provider) hasInstaller(m machine) bool {
	return (len(p.inserted(m)) > 0) == (m.record.Installer != "")
}

// inserted lists what is in a machine's drives besides its disk and seed.
func (p *Provider) inserted(m machine) []disk {
	var found []disk
	_, others := attached(m.info)
	for _, d := range others {
		if !d.empty() && d.path != p.seed(m.record) {
			found = append(found, d)
		}
	}
	return found
}

// eject empties a machine's drives of all but its disk, of the seed as well, which is
// put where there is room afterwards; it removes the drives, and what VirtualBox has
// made of an installer.
func (p *Provider) eject(ctx context.Context, r record, m machine) (machine, error) {
	id := string(r.ID)
	_, others := attached(m.info)
	for _, d := range others {
		if d.path == noDrive {
			continue
		}
		if _, err := p.manage(ctx, r.ID, 0, "storageattach", id, "--storagectl", d.controller,
			"--port", d.port, "--device", d.device, "--medium", noDrive); err != nil {
			return m, err
		}
	}
	if err := p.closeDVDs(ctx, r.ID, p.vmDir(r)); err != nil {
		return m, err
	}
	m, err := p.look(ctx, r.ID)
	if err != nil {
		return m, err
	}
	idle := idleControllers(m.info)
	for _, name := range idle {
		if _, err := p.manage(ctx, r.ID, 0, "storagectl", id, "--name", name, "--remove"); err != nil {
			return m, err
		}
	}
	left, err := filepath.Glob(filepath.Join(p.vmDir(r), "Unattended-*"))
	for _, path := range append(left, p.answersFile(r)) {
		if files.Exists(path) {
			p.steps.next()
			err = errors.Join(err, os.Remove(path))
		}
	}
	if err != nil || len(idle) == 0 {
		return m, p.fileError(machineObject(r.ID), err)
	}
	return p.look(ctx, r.ID)
}

// answersFile is the script of answers that VirtualBox reads.
func (p *Provider) answersFile(r record) string { return filepath.Join(p.vmDir(r), "install.answers") }

// answersOf are the answers for a machine's installer.
func answersOf(spec providers.MachineSpec) unattended.Answers {
	return seed.AnswersOf(spec, installDisk)
}
