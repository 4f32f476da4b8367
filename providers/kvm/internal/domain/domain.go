// Package domain turns machines into libvirt domains and back. It is pure:
// text in, text out.
//
//	providers.MachineSpec ──Build──▶ domain XML ──libvirt──▶ live XML ──Parse──▶ Live
//
// A domain has the machine's ID as its UUID and a Record in its metadata. It
// has the devices a sandbox needs and no others: virtio disk, seed, network,
// entropy and agent channel, and a serial console that can be typed at and whose
// output goes to a file as well. There is no USB, no sound, no display, no memory balloon.
package domain

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/types"
	"libvirt.org/go/libvirtxml"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
)

// AgentChannel is the name under which QEMU's guest agent looks for its
// channel.
const AgentChannel = "org.qemu.guest_agent.0"

// Accelerators, as Machine.Accelerator names them.
const (
	KVM = "kvm"
	TCG = "tcg"
)

// tcgCacheMiB bounds the memory that software emulation of one machine takes
// for translated code. QEMU's own default is up to 1 GiB.
const tcgCacheMiB = 128

// Spec is a machine with everything about it decided.
type Spec struct {
	providers.MachineSpec
	Record Record
	// Accelerator is KVM or TCG.
	Accelerator string
	// Disk is the machine's disk, Seed the seed, Console the file of the serial
	// console: absolute paths.
	Disk, Seed, Console string
	// Below are the files that the disk lies on, each on the next one.
	Below []string
	// Installer of the operating system; nil when none is to run.
	Installer *Installer
	// LinkIsBridge: with mode bridged, the named link is a bridge; otherwise
	// the machine gets a macvtap on it.
	LinkIsBridge bool
}

// domainName is the machine's name on the hypervisor.
func (s Spec) domainName() string { return identity.DomainName(s.Namespace, s.Name, s.ID) }

// Build renders the domain. Its record says what it was made with.
func Build(s Spec) (string, error) {
	s.Record.Made = madeOf(s)
	record, err := s.Record.Element(false)
	if err != nil {
		return "", err
	}
	d := definition(s)
	d.Metadata = &libvirtxml.DomainMetadata{XML: record}
	return d.Marshal()
}

// definition is the domain without its record.
func definition(s Spec) libvirtxml.Domain {
	d := libvirtxml.Domain{
		Type:          "kvm",
		Name:          s.domainName(),
		UUID:          string(s.ID),
		Title:         s.Namespace + "/" + s.Name,
		Description:   "Made by sandboxd. Change the Sandbox, not this machine.",
		Memory:        &libvirtxml.DomainMemory{Value: uint(s.MemoryBytes >> 10), Unit: "KiB"},
		VCPU:          &libvirtxml.DomainVCPU{Value: uint(s.CPUs)},
		OS:            firmware(s),
		Features:      &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}},
		CPU:           &libvirtxml.DomainCPU{Mode: "host-passthrough"},
		Clock:         &libvirtxml.DomainClock{Offset: "utc"},
		OnPoweroff:    "destroy",
		OnReboot:      "restart",
		OnCrash:       "destroy",
		CurrentMemory: nil,
		PM: &libvirtxml.DomainPM{
			SuspendToMem:  &libvirtxml.DomainPMPolicy{Enabled: "no"},
			SuspendToDisk: &libvirtxml.DomainPMPolicy{Enabled: "no"},
		},
		Devices: devices(s),
	}
	if s.Installer != nil {
		d.OnReboot = "destroy" // the end, and not the beginning of the next installation
	}
	if s.Accelerator == TCG {
		d.Type = "qemu"
		d.CPU = emulatedCPU()
		d.Features.TCG = &libvirtxml.DomainFeatureTCG{TBCache: &libvirtxml.DomainFeatureTCGTBCache{Unit: "MiB", Size: tcgCacheMiB}}
	}
	return d
}

// emulated are the features that an emulated CPU has beyond QEMU's smallest
// one: rdrand, without which a guest's boot waits for entropy, and what today's
// distributions are compiled for (x86-64-v2). Not more, since all that a guest
// uses must be emulated.
var emulated = []string{"rdrand", "cx16", "lahf_lm", "popcnt", "ssse3", "sse4.1", "sse4.2"}

// emulatedCPU is the CPU of machines without acceleration. It says that it is
// AMD's, for which kernels do not separate their page tables from programs':
// that costs an emulated guest dear, and protects against a flaw that it does
// not have.
func emulatedCPU() *libvirtxml.DomainCPU {
	cpu := &libvirtxml.DomainCPU{
		Mode: "custom", Match: "exact", Check: "none",
		Model: &libvirtxml.DomainCPUModel{Fallback: "allow", Value: "qemu64"},
	}
	for _, f := range emulated {
		cpu.Features = append(cpu.Features, libvirtxml.DomainCPUFeature{Policy: "require", Name: f})
	}
	return cpu
}

func firmware(s Spec) *libvirtxml.DomainOS {
	os := &libvirtxml.DomainOS{
		Type:        &libvirtxml.DomainOSType{Arch: "x86_64", Machine: "pc", Type: "hvm"},
		BootDevices: []libvirtxml.DomainBootDevice{{Dev: "hd"}},
	}
	if s.Firmware == v1.FirmwareEFI {
		os.Type.Machine, os.Firmware = "q35", "efi"
	}
	s.Installer.boot(os)
	return os
}

func devices(s Spec) *libvirtxml.DomainDeviceList {
	serial, console := terminal(s.Console)
	list := &libvirtxml.DomainDeviceList{
		Disks:       []libvirtxml.DomainDisk{overlay(s), seed(s)},
		Controllers: []libvirtxml.DomainController{{Type: "usb", Model: "none"}},
		Serials:     []libvirtxml.DomainSerial{serial},
		Consoles:    []libvirtxml.DomainConsole{console},
		Channels: []libvirtxml.DomainChannel{{
			Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind"}},
			Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: AgentChannel}},
		}},
		MemBalloon: &libvirtxml.DomainMemBalloon{Model: "none"},
		RNGs: []libvirtxml.DomainRNG{{
			Model:   "virtio",
			Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}},
		}},
	}
	if s.Installer != nil {
		list.Disks = append(list.Disks, s.Installer.cd(s.Firmware))
	}
	if i := nic(s); i != nil {
		list.Interfaces = []libvirtxml.DomainInterface{*i}
	}
	for _, f := range s.SharedFolders {
		list.Filesystems = append(list.Filesystems, share(f))
	}
	return list
}

// overlay is the machine's disk. Its content is thrown away with the machine
// and lost anyway if the host fails, so the guest's flushes need not reach the
// host's disk (cache unsafe). The chain is given in full, so that libvirt
// takes no file's word for what lies below, and what lies there is not
// relabelled: QEMU may read it, and must never own it.
func overlay(s Spec) libvirtxml.DomainDisk {
	return libvirtxml.DomainDisk{
		Device:       "disk",
		Driver:       &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "qcow2", Cache: "unsafe", Discard: "unmap"},
		Source:       &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: s.Disk}},
		BackingStore: backing(s.Below),
		Target:       &libvirtxml.DomainDiskTarget{Dev: rootDisk, Bus: "virtio"},
		Serial:       "root",
	}
}

func seed(s Spec) libvirtxml.DomainDisk {
	return libvirtxml.DomainDisk{
		Device:   "disk",
		Driver:   &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"},
		Source:   &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: s.Seed}},
		Target:   &libvirtxml.DomainDiskTarget{Dev: "vdb", Bus: "virtio"},
		ReadOnly: &libvirtxml.DomainDiskReadOnly{},
		Serial:   "cidata",
	}
}

func nic(s Spec) *libvirtxml.DomainInterface {
	i := &libvirtxml.DomainInterface{
		MAC:   &libvirtxml.DomainInterfaceMAC{Address: providers.MACAddress(s.ID, 0)},
		Model: &libvirtxml.DomainInterfaceModel{Type: "virtio"},
		ROM:   &libvirtxml.DomainROM{Enabled: "no"},
	}
	tap := &libvirtxml.DomainInterfaceTarget{Dev: identity.Tap(s.Record.Instance, s.Network.Mode, s.ID)}
	switch s.Network.Mode {
	case v1.NetworkIntnet, v1.NetworkHostOnly, v1.NetworkNAT:
		n, _ := identity.NetworkOf(s.Record.Instance, s.Namespace, s.Network)
		i.Source = &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: n.LibvirtName()}}
		i.Target = tap
		if s.Network.Mode != v1.NetworkIntnet {
			i.PortOptions = &libvirtxml.DomainInterfacePortOptions{Isolated: "yes"}
		}
	case v1.NetworkBridged:
		if s.LinkIsBridge {
			i.Source = &libvirtxml.DomainInterfaceSource{Bridge: &libvirtxml.DomainInterfaceSourceBridge{Bridge: s.Network.Bridge}}
			i.Target = tap
		} else {
			i.Source = &libvirtxml.DomainInterfaceSource{Direct: &libvirtxml.DomainInterfaceSourceDirect{Dev: s.Network.Bridge, Mode: "bridge"}}
		}
	default:
		return nil
	}
	return i
}

// share offers a host directory over 9p. Guest ownership, modes and symlinks
// are kept in attributes (mapped), so that nothing a guest makes is special on
// the host.
func share(f v1.SharedFolder) libvirtxml.DomainFilesystem {
	fs := libvirtxml.DomainFilesystem{
		AccessMode: "mapped",
		Driver:     &libvirtxml.DomainFilesystemDriver{Type: "path"},
		Source:     &libvirtxml.DomainFilesystemSource{Mount: &libvirtxml.DomainFilesystemSourceMount{Dir: f.HostPath}},
		Target:     &libvirtxml.DomainFilesystemTarget{Dir: f.Name},
	}
	if f.IsReadOnly() {
		fs.ReadOnly = &libvirtxml.DomainFilesystemReadOnly{}
	}
	return fs
}

// Writable tells whether XML can carry a text: what it cannot, an encoder
// replaces.
func Writable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool {
		return r < 0x20 || r == 0xfffe || r == 0xffff
	})
}

// Interface is a machine's network interface as libvirt shows it.
type Interface struct {
	// Kind is network, bridge, direct, or libvirt's word for any other.
	Kind string
	MAC  string
	// Network and Bridge it is attached to, and Tap, its end on the host.
	Network, Bridge, Tap string
}

// Live is what a domain's XML says.
type Live struct {
	Record      Record
	Accelerator string
	Interfaces  []Interface
	// Extra names devices that reach outside the machine and that we never
	// give one.
	Extra []string
	// AgentConnected: something in the guest holds the agent channel open.
	AgentConnected bool
	// Shares are the shared folders by their tag; true means read-only.
	Shares map[string]bool
	// Folders of the host that the shared folders are.
	Folders []string
	// Below are the files that the machine's disk lies on, each on the next one.
	Below []string
	// Terminal: its serial console can be typed at.
	Terminal bool
	// Outline of it, to be compared.
	Outline Outline
}

// Parse reads a domain's XML. ErrNoRecord and ErrBadRecord mean that it is not
// ours.
func Parse(text string) (Live, error) {
	var d libvirtxml.Domain
	if err := d.Unmarshal(text); err != nil {
		return Live{}, fmt.Errorf("domain XML: %w", err)
	}
	if d.Metadata == nil {
		return Live{}, ErrNoRecord
	}
	record, err := ReadRecord(d.Metadata.XML)
	if err != nil {
		return Live{}, err
	}
	if record.Owner != types.UID(d.UUID) {
		return Live{}, fmt.Errorf("%w: it names machine %s", ErrBadRecord, record.Owner)
	}
	l := Live{Record: record, Accelerator: TCG, Shares: map[string]bool{}, Outline: outline(d)}
	if d.Type == "kvm" {
		l.Accelerator = KVM
	}
	if d.QEMUCommandline != nil {
		l.Extra = append(l.Extra, "arguments of its own to QEMU")
	}
	if d.Devices != nil {
		l.Below = below(d.Devices.Disks)
		l.Terminal = len(d.Devices.Serials) > 0 && isTerminal(d.Devices.Serials[0].Source)
		l.readDevices(d.Devices)
	}
	return l, nil
}

func (l *Live) readDevices(v *libvirtxml.DomainDeviceList) {
	for _, i := range v.Interfaces {
		l.Interfaces = append(l.Interfaces, readInterface(i))
	}
	line := false // a character device that leads somewhere
	for _, c := range v.Channels {
		if c.Target != nil && c.Target.VirtIO != nil && c.Target.VirtIO.Name == AgentChannel {
			l.AgentConnected = c.Target.VirtIO.State == "connected"
		} else {
			line = line || leadsOut(c.Source)
		}
	}
	for _, s := range v.Serials {
		line = line || leadsOut(s.Source)
	}
	for _, p := range v.Parallels {
		line = line || leadsOut(p.Source)
	}
	for _, c := range v.Consoles {
		line = line || leadsOut(c.Source)
	}
	for _, f := range v.Filesystems {
		if f.Target != nil {
			l.Shares[f.Target.Dir] = f.ReadOnly != nil
		}
		if f.Source != nil && f.Source.Mount != nil {
			l.Folders = append(l.Folders, f.Source.Mount.Dir)
		}
	}
	for _, e := range []struct {
		what  string
		there bool
	}{
		{"a device of the host", len(v.Hostdevs) > 0},
		{"a vsock device", v.VSock != nil},
		{"a redirected USB device", len(v.RedirDevs) > 0},
		{"memory that it shares with others", len(v.Shmems) > 0},
		{"a display", len(v.Graphics) > 0},
		{"a line to something else", line},
	} {
		if e.there {
			l.Extra = append(l.Extra, e.what)
		}
	}
}

// leadsOut tells whether a character device is connected to more than a file or
// a terminal.
func leadsOut(s *libvirtxml.DomainChardevSource) bool {
	return s != nil && s.File == nil && s.Pty == nil && s.Null == nil
}

func readInterface(i libvirtxml.DomainInterface) Interface {
	out := Interface{Kind: "other"}
	if i.MAC != nil {
		out.MAC = i.MAC.Address
	}
	if i.Target != nil {
		out.Tap = i.Target.Dev
	}
	if i.Source == nil {
		return out
	}
	switch {
	case i.Source.Network != nil:
		out.Kind, out.Network, out.Bridge = "network", i.Source.Network.Network, i.Source.Network.Bridge
	case i.Source.Bridge != nil:
		out.Kind, out.Bridge = "bridge", i.Source.Bridge.Bridge
	case i.Source.Direct != nil:
		out.Kind, out.Bridge = "direct", i.Source.Direct.Dev
	}
	return out
}
