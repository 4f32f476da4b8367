package domain

import (
	"libvirt.org/go/libvirtxml"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// Installer is what a machine boots to have an operating system installed.
type Installer struct {
	// ISO is the installer's CD: an absolute path.
	ISO string `json:"iso"`
	// Kernel and Initrd to start with Cmdline; empty when the CD is booted.
	Kernel  string `json:"kernel,omitempty"`
	Initrd  string `json:"initrd,omitempty"`
	Cmdline string `json:"cmdline,omitempty"`
}

// boot makes a machine boot its installer. From the CD, it does so only as long as
// there is nothing on the disk.
func (i *Installer) boot(os *libvirtxml.DomainOS) {
	switch {
	case i == nil:
	case i.Kernel != "":
		os.Kernel, os.Initrd, os.Cmdline = i.Kernel, i.Initrd, i.Cmdline
	default:
		os.BootDevices = append(os.BootDevices, libvirtxml.DomainBootDevice{Dev: "cdrom"})
	}
}

// cd is the installer's drive, of the kind that every installer knows.
func (i *Installer) cd(f v1.Firmware) libvirtxml.DomainDisk {
	target := &libvirtxml.DomainDiskTarget{Dev: "hda", Bus: "ide"}
	if f == v1.FirmwareEFI { // its chipset has no IDE
		target = &libvirtxml.DomainDiskTarget{Dev: "sda", Bus: "sata"}
	}
	return libvirtxml.DomainDisk{
		Device:   "cdrom",
		Driver:   &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"},
		Source:   &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: i.ISO}},
		Target:   target,
		ReadOnly: &libvirtxml.DomainDiskReadOnly{},
	}
}
