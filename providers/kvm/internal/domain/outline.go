package domain

import (
	"fmt"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// form counts the changes of what Build writes and Outline sees. Definitions of
// another form were made by another release: of them only what every form has in
// common is compared.
const form = 1

// Made is what a domain was defined with, as far as its own settings say it, too:
// those others may change.
type Made struct {
	Form        int   `json:"form"`
	CPUs        int   `json:"cpus"`
	MemoryBytes int64 `json:"memoryBytes"`
	// DiskBytes is the size of the disk, which a fresh one has when this is lost; 0 in
	// what an older release defined.
	DiskBytes     int64             `json:"diskBytes,omitempty"`
	Firmware      v1.Firmware       `json:"firmware,omitempty"`
	Accelerator   string            `json:"accelerator"`
	LinkIsBridge  bool              `json:"linkIsBridge,omitempty"`
	SharedFolders []v1.SharedFolder `json:"sharedFolders,omitempty"`
	Installer     *Installer        `json:"installer,omitempty"`
}

func madeOf(s Spec) *Made {
	return &Made{
		Form: form, CPUs: s.CPUs, MemoryBytes: s.MemoryBytes, DiskBytes: s.DiskBytes, Firmware: s.Firmware, Accelerator: s.Accelerator,
		LinkIsBridge: s.LinkIsBridge, SharedFolders: s.SharedFolders, Installer: s.Installer,
	}
}

// known tells whether all that the domain was defined with can be told again.
func (r Record) known() bool { return r.Made != nil && r.Made.Form == form }

// Spec is what the domain was defined from, but for its files.
func (r Record) Spec() Spec {
	s := Spec{Record: r, MachineSpec: providers.MachineSpec{ID: r.Owner, Namespace: r.Namespace, Name: r.Name, Image: r.Image, Network: r.Network}}
	if m := r.Made; m != nil {
		s.CPUs, s.MemoryBytes, s.DiskBytes, s.Firmware, s.SharedFolders = m.CPUs, m.MemoryBytes, m.DiskBytes, m.Firmware, m.SharedFolders
		s.Accelerator, s.LinkIsBridge, s.Installer = m.Accelerator, m.LinkIsBridge, m.Installer
	}
	return s
}

// Outline is what of a domain is compared to find out whether others changed it.
// What libvirt fills in by itself (addresses, aliases, controllers, defaults) is
// left out.
type Outline struct {
	Name string
	// Type is the kind of virtualization.
	Type        string
	MemoryBytes int64
	// CPUs that are there, of MaxCPUs that may be added while it runs.
	CPUs, MaxCPUs int
	// Boot says how it boots, Ends what becomes of it when the guest ends, reboots
	// or crashes.
	Boot, Ends string
	Disks      []Disk
	Cards      []Card
	// Shares are the host's directories by their tag.
	Shares map[string]Share
	// Devices are counted by what they are.
	Devices map[Device]int
}

// Disk of a domain.
type Disk struct {
	Target, Device, Bus, Source string
	ReadOnly                    bool
	// NoFile: it is a device of the host's, or further away.
	NoFile bool
}

// Card is a network card.
type Card struct {
	MAC, On, Tap, Model, Filter string
	Isolated, Down, Script      bool
}

// Share is a directory of the host that a domain is offered.
type Share struct {
	Dir      string
	ReadOnly bool
}

// Device is a kind of device, by a noun with its article.
type Device struct {
	What string
	// Out: it reaches outside the machine.
	Out bool
}

func outline(d libvirtxml.Domain) Outline {
	o := Outline{Name: d.Name, Type: d.Type, Shares: map[string]Share{}, Devices: map[Device]int{}}
	if d.Memory != nil {
		o.MemoryBytes = bytesOf(*d.Memory)
	}
	if v := d.VCPU; v != nil {
		o.CPUs, o.MaxCPUs = int(v.Value), int(v.Value)
		if v.Current > 0 {
			o.CPUs = int(v.Current)
		}
	}
	o.Boot = bootOf(d.OS)
	o.Ends = fmt.Sprintf("on poweroff %s, on reboot %s, on crash %s", d.OnPoweroff, d.OnReboot, d.OnCrash)
	if d.QEMUCommandline != nil {
		o.Devices[Device{"arguments of its own to QEMU", true}]++
	}
	if v := d.Devices; v != nil {
		for _, disk := range v.Disks {
			o.Disks = append(o.Disks, diskOf(disk))
		}
		for _, i := range v.Interfaces {
			o.Cards = append(o.Cards, cardOf(i))
		}
		for _, f := range v.Filesystems {
			o.addShare(f)
		}
		o.addLines(v)
		o.addDevices(v)
	}
	return o
}

// RootDisk is what libvirt uses as the machine's disk, if it has one.
func (o Outline) RootDisk() (path string, ok bool) {
	i := slices.IndexFunc(o.Disks, func(d Disk) bool { return d.Target == rootDisk })
	if i < 0 {
		return "", false
	}
	return o.Disks[i].Source, true
}

// bytesOf reads a size in the units that libvirt writes and people use.
func bytesOf(m libvirtxml.DomainMemory) int64 {
	shift := map[string]int{"b": 0, "bytes": 0, "MiB": 20, "M": 20, "GiB": 30, "G": 30}
	by, ok := shift[m.Unit]
	if !ok {
		by = 10
	}
	return int64(m.Value) << by
}

func bootOf(os *libvirtxml.DomainOS) string {
	if os == nil {
		return ""
	}
	firmware := "BIOS"
	if os.Firmware == "efi" || os.Loader != nil && os.Loader.Type == "pflash" {
		firmware = "EFI"
	}
	text := "by " + firmware + " from"
	for _, b := range os.BootDevices {
		text += " " + b.Dev
	}
	for _, s := range []struct{ what, is string }{{"kernel", os.Kernel}, {"initrd", os.Initrd}, {"arguments", os.Cmdline}} {
		if s.is != "" {
			text += " " + s.what + " " + s.is
		}
	}
	return text
}

func diskOf(d libvirtxml.DomainDisk) Disk {
	out := Disk{Device: d.Device, ReadOnly: d.ReadOnly != nil}
	if d.Target != nil {
		out.Target, out.Bus = d.Target.Dev, d.Target.Bus
	}
	switch s := d.Source; {
	case s == nil:
	case s.File != nil:
		out.Source = s.File.File
	case s.Block != nil:
		out.Source, out.NoFile = s.Block.Dev, true
	default:
		out.Source, out.NoFile = "something that is no file", true
	}
	return out
}

func cardOf(i libvirtxml.DomainInterface) Card {
	in := readInterface(i)
	c := Card{MAC: strings.ToLower(in.MAC), Tap: in.Tap, Script: i.Script != nil || i.DownScript != nil}
	switch in.Kind {
	case "network":
		c.On = "network " + in.Network
	case "bridge", "direct":
		c.On = in.Kind + " " + in.Bridge
	default:
		c.On = "something that is no network"
	}
	if i.Model != nil {
		c.Model = i.Model.Type
	}
	if i.FilterRef != nil {
		c.Filter = i.FilterRef.Filter
	}
	c.Isolated = i.PortOptions != nil && i.PortOptions.Isolated == "yes"
	c.Down = i.Link != nil && i.Link.State == "down"
	return c
}

func (o *Outline) addShare(f libvirtxml.DomainFilesystem) {
	s := Share{Dir: "something that is no directory", ReadOnly: f.ReadOnly != nil}
	if f.Source != nil && f.Source.Mount != nil {
		s.Dir = f.Source.Mount.Dir
	}
	tag := ""
	if f.Target != nil {
		tag = f.Target.Dir
	}
	o.Shares[tag] = s
}

// addLines counts the character devices. A console is the serial port by another
// name, or leads to where libvirt would let people look. A terminal whose output is
// kept in a file counts as that file, which the console of an earlier release was.
func (o *Outline) addLines(v *libvirtxml.DomainDeviceList) {
	line := func(what string, s *libvirtxml.DomainChardevSource, kept *libvirtxml.DomainChardevLog) {
		if leadsOut(s) {
			o.Devices[Device{"a line to something else", true}]++
			return
		}
		switch {
		case s != nil && s.File != nil:
			what += " to " + shown(s.File.Path)
		case kept != nil:
			what += " to " + shown(kept.File)
		}
		o.Devices[Device{what, false}]++
	}
	for _, c := range v.Channels {
		if c.Target != nil && c.Target.VirtIO != nil && c.Target.VirtIO.Name == AgentChannel {
			o.Devices[Device{"a channel for its agent", false}]++
			continue
		}
		line("a channel", c.Source, c.Log)
	}
	for _, s := range v.Serials {
		line("a serial port", s.Source, s.Log)
	}
	for _, p := range v.Parallels {
		line("a parallel port", p.Source, p.Log)
	}
	for _, c := range v.Consoles {
		if leadsOut(c.Source) {
			line("", c.Source, nil)
		}
	}
}

// addDevices counts the other devices, without those that libvirt adds to every
// machine: a keyboard and a mouse, sound that leads nowhere, and the watchdog of
// the chipset.
func (o *Outline) addDevices(v *libvirtxml.DomainDeviceList) {
	count := func(what string, out bool, n int) {
		if n > 0 {
			o.Devices[Device{what, out}] += n
		}
	}
	one := func(is bool) int {
		if is {
			return 1
		}
		return 0
	}
	count("a device of the host", true, len(v.Hostdevs))
	count("a vsock device", true, one(v.VSock != nil))
	count("a redirected USB device", true, len(v.RedirDevs))
	count("memory that it shares with others", true, len(v.Shmems))
	count("a display", true, len(v.Graphics))
	count("a smartcard reader", true, len(v.Smartcards))
	count("a random number generator", false, len(v.RNGs))
	count("a sound card", false, len(v.Sounds))
	count("a video card", false, len(v.Videos))
	count("a TPM", false, len(v.TPMs))
	count("a USB hub", false, len(v.Hubs))
	count("a memory module", false, len(v.Memorydevs))
	count("an IOMMU", false, one(v.IOMMU != nil)+len(v.IOMMUs))
	count("a crypto device", false, len(v.Crypto))
	count("a memory balloon", false, one(v.MemBalloon != nil && v.MemBalloon.Model != "none"))
	for _, a := range v.Audios {
		count("a line for sound", true, one(a.None == nil))
	}
	for _, i := range v.Inputs {
		count("an input device", i.Type == "passthrough" || i.Type == "evdev", one(i.Bus != "ps2"))
	}
	for _, w := range v.Watchdogs {
		count("a watchdog", false, one(w.Model != "itco"))
	}
	for _, c := range v.Controllers {
		count("a USB controller", false, one(c.Type == "usb" && c.Model != "none"))
	}
}

// sorted lists the kinds of devices in an order that does not change.
func sorted(devices map[Device]int) []Device {
	var list []Device
	for d := range devices {
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b Device) int { return strings.Compare(a.What, b.What) })
	return list
}
