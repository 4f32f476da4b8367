//go:build linux

package kvm

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/kvm/internal/accel"
	"sandboxd.dev/sandboxd/providers/kvm/internal/domain"
	"sandboxd.dev/sandboxd/providers/kvm/internal/libvirtconn"
)

// hostFacts is what is found out about the host once, when it is first needed.
type hostFacts struct {
	choice string
	probe  func() accel.Result
	known  atomic.Pointer[facts]
}

type facts struct {
	accelerator string
	notes       []string
	// uid and gid that QEMU runs as; -1 when libvirt does not say.
	uid, gid int
	// efi: libvirt has firmware for machines that boot by EFI.
	efi bool
}

// facts returns what is known of the host, asking libvirt if need be.
func (p *Provider) facts(ctx context.Context) (facts, error) {
	h := p.host
	if known := h.known.Load(); known != nil {
		return *known, nil
	}
	unlock, err := p.locks.Lock(ctx, "host facts")
	if err != nil {
		return facts{}, err
	}
	defer unlock()
	if known := h.known.Load(); known != nil {
		return *known, nil
	}
	text, err := libvirtconn.Get(ctx, p.conn.Lifecycle(), "libvirt", libvirtconn.Slow, (*libvirt.Libvirt).ConnectGetCapabilities)
	if err != nil {
		return facts{}, err
	}
	var caps libvirtxml.Caps
	if err := caps.Unmarshal(text); err != nil {
		return facts{}, providers.Errorf(providers.ErrUnavailable, "libvirt", "its capabilities cannot be read: %w", err)
	}
	if caps.Host.CPU == nil || caps.Host.CPU.Arch != "x86_64" {
		return facts{}, providers.Errorf(providers.ErrUnsupported, "kvm provider", "the host is not an x86-64 machine")
	}
	f := facts{}
	f.uid, f.gid = qemuUser(caps)
	if err := p.closeFolder(f); err != nil {
		p.log.Error(err, "The data folder cannot be closed to the other users of the host: images and layers of disks may be read by them", "folder", p.data.Root)
	}
	f.accelerator, f.notes = chooseAccelerator(h.choice, offersKVM(caps), h.probe)
	efi, err := libvirtconn.Get(ctx, p.conn.Lifecycle(), "libvirt", libvirtconn.Slow, efiCapabilities)
	if err != nil {
		return facts{}, err
	}
	f.efi = hasEFI(efi)
	for _, n := range f.notes {
		providers.Logger(ctx, p.log).Info("hypervisor", "accelerator", f.accelerator, "note", n)
	}
	h.known.Store(&f)
	return f, nil
}

// chooseAccelerator decides what new machines run with, and says why.
func chooseAccelerator(choice string, offered bool, probe func() accel.Result) (string, []string) {
	switch choice {
	case AcceleratorKVM:
		return domain.KVM, nil
	case AcceleratorTCG:
		return domain.TCG, []string{"machines are emulated in software (tcg), as configured: they are several times slower than with KVM"}
	}
	const slow = "; machines are emulated in software (tcg), several times slower"
	r := probe()
	switch {
	case !r.Works:
		return domain.TCG, []string{"no hardware acceleration: " + r.Reason + slow}
	case !offered:
		return domain.TCG, []string{"KVM works, but libvirt does not offer it: restart libvirtd" + slow}
	}
	return domain.KVM, nil
}

// efiCapabilities asks what machines that boot by EFI would be like.
func efiCapabilities(l *libvirt.Libvirt) (string, error) {
	return l.ConnectGetDomainCapabilities(nil, libvirt.OptString{"x86_64"}, libvirt.OptString{"q35"}, libvirt.OptString{"qemu"}, 0)
}

// hasEFI tells whether libvirt finds EFI firmware by itself.
func hasEFI(text string) bool {
	var caps libvirtxml.DomainCaps
	if caps.Unmarshal(text) != nil {
		return false
	}
	for _, e := range caps.OS.Enums {
		if e.Name == "firmware" {
			return slices.Contains(e.Values, "efi")
		}
	}
	return false
}

// offersKVM tells whether libvirt would run x86-64 guests with KVM.
func offersKVM(caps libvirtxml.Caps) bool {
	for _, g := range caps.Guests {
		if g.Arch.Name != "x86_64" {
			continue
		}
		for _, d := range g.Arch.Domains {
			if d.Type == "kvm" {
				return true
			}
		}
	}
	return false
}

// qemuUser finds the user that QEMU runs as, which libvirt shows as the base
// label of its dac security model: +UID:+GID.
func qemuUser(caps libvirtxml.Caps) (uid, gid int) {
	for _, m := range caps.Host.SecModel {
		if m.Name != "dac" {
			continue
		}
		for _, l := range m.Labels {
			if l.Type != "kvm" && l.Type != "qemu" {
				continue
			}
			u, g, _ := strings.Cut(l.Value, ":")
			uid, err1 := strconv.Atoi(strings.TrimPrefix(u, "+"))
			gid, err2 := strconv.Atoi(strings.TrimPrefix(g, "+"))
			if err1 == nil && err2 == nil {
				return uid, gid
			}
		}
	}
	return -1, -1
}
