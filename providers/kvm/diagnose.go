//go:build linux

package kvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"golang.org/x/sys/unix"
	"libvirt.org/go/libvirtxml"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/qemuimg"
	"sandboxd.dev/sandboxd/providers/kvm/internal/accel"
	"sandboxd.dev/sandboxd/providers/kvm/internal/firewall"
	"sandboxd.dev/sandboxd/providers/kvm/internal/libvirtconn"
)

// Diagnose looks at everything on the host that a provider of these options
// needs, and changes nothing. It takes some seconds at most, unless libvirt
// hangs.
func Diagnose(ctx context.Context, o Options) []providers.Finding {
	if o.Instance == "" {
		o.Instance = "diagnosis" // whose firewall tables there are none of
	}
	o, err := o.withDefaults()
	if err != nil {
		return []providers.Finding{{Check: "kvm options", Severity: providers.SeverityMissing, Message: err.Error(), Fix: "correct the configuration"}}
	}
	findings, caps := diagnoseLibvirt(ctx, o)
	uid, gid := -1, -1
	if caps != nil {
		uid, gid = qemuUser(*caps)
	}
	findings = append(findings, diagnoseAcceleration(o, accel.Probe, kvmDevice, uid, gid))
	findings = append(findings, diagnosePrograms(o)...)
	findings = append(findings, diagnoseFirewall(o))
	findings = append(findings, diagnoseDataDir(o, uid, gid), diagnoseConfinement(), diagnoseSourceCheck(rpFilter))
	return findings
}

const (
	kvmDevice = "/dev/kvm"
	rpFilter  = "/proc/sys/net/ipv4/conf/all/rp_filter"
)

func ok(check, format string, args ...any) providers.Finding {
	return providers.Finding{Check: check, Severity: providers.SeverityOK, Message: fmt.Sprintf(format, args...)}
}

func warning(check, fix, format string, args ...any) providers.Finding {
	return providers.Finding{Check: check, Severity: providers.SeverityWarning, Message: fmt.Sprintf(format, args...), Fix: fix}
}

func missing(check, fix, format string, args ...any) providers.Finding {
	return providers.Finding{Check: check, Severity: providers.SeverityMissing, Message: fmt.Sprintf(format, args...), Fix: fix}
}

// diagnoseLibvirt asks libvirt what it is; its capabilities are nil when it
// does not answer.
func diagnoseLibvirt(ctx context.Context, o Options) ([]providers.Finding, *libvirtxml.Caps) {
	c := libvirtconn.New(libvirtconn.Options{URI: o.URI, Socket: o.Socket, Logger: o.Logger})
	defer c.Close()
	get := func(call func(*libvirt.Libvirt) (uint64, error)) (uint64, error) {
		return libvirtconn.Get(ctx, c.Lifecycle(), "libvirt", libvirtconn.Quick, call)
	}
	lib, err := get((*libvirt.Libvirt).ConnectGetLibVersion)
	if err != nil {
		fix := "apt-get install libvirt-daemon-system && systemctl start libvirtd"
		if errors.Is(err, os.ErrPermission) {
			fix = "run it as root: sudo sandboxd doctor"
		}
		return []providers.Finding{missing("libvirt", fix, "%v", err)}, nil
	}
	findings := []providers.Finding{ok("libvirt", "version %s answers at %s", version(lib), o.Socket)}
	hv, err := get((*libvirt.Libvirt).ConnectGetVersion)
	if err != nil {
		return append(findings, missing("QEMU", "apt-get install qemu-system-x86", "%v", err)), nil
	}
	findings = append(findings, ok("QEMU", "version %s", version(hv)))
	text, err := libvirtconn.Get(ctx, c.Lifecycle(), "libvirt", libvirtconn.Slow, (*libvirt.Libvirt).ConnectGetCapabilities)
	var caps libvirtxml.Caps
	if err == nil {
		err = caps.Unmarshal(text)
	}
	if err != nil {
		return append(findings, missing("QEMU", "systemctl restart libvirtd", "libvirt does not say what it can do: %v", err)), nil
	}
	findings = append(findings, diagnoseDriver(caps), diagnoseConsole(filepath.Dir(o.Socket)))
	domText, err := libvirtconn.Get(ctx, c.Lifecycle(), "libvirt", libvirtconn.Slow, efiCapabilities)
	if err == nil {
		findings = append(findings, diagnoseEFI(domText))
	}
	return findings, &caps
}

// diagnoseDriver looks at what confines QEMU besides its user.
func diagnoseDriver(caps libvirtxml.Caps) providers.Finding {
	const check = "QEMU's confinement"
	for _, m := range caps.Host.SecModel {
		if m.Name == "apparmor" || m.Name == "selinux" {
			return ok(check, "libvirt confines each machine with %s", m.Name)
		}
	}
	return warning(check, "enable AppArmor or SELinux, and leave security_driver in /etc/libvirt/qemu.conf as it is",
		"libvirt uses neither AppArmor nor SELinux: a guest that breaks out of QEMU meets the rights of QEMU's user only")
}

// diagnoseConsole looks for virtlogd, which bounds consoles' logs.
func diagnoseConsole(runDir string) providers.Finding {
	const check = "console logs"
	if files.Exists(filepath.Join(runDir, "virtlogd-sock")) {
		return ok(check, "virtlogd rotates them")
	}
	return warning(check, "systemctl enable --now virtlogd.socket",
		"virtlogd does not listen in %s: without it, a guest can fill the disk by its console", runDir)
}

func diagnoseEFI(caps string) providers.Finding {
	const check = "EFI firmware"
	if hasEFI(caps) {
		return ok(check, "libvirt finds one")
	}
	return warning(check, "apt-get install ovmf", "libvirt finds none: machines with firmware efi are not possible")
}

// diagnoseAcceleration tries KVM, and looks whether QEMU's user may use it.
func diagnoseAcceleration(o Options, probe func() accel.Result, device string, uid, gid int) providers.Finding {
	const check = "acceleration"
	if o.Accelerator == AcceleratorTCG {
		return warning(check, "set the accelerator to auto", "machines are emulated in software, as configured")
	}
	if uid > 0 && files.Exists(device) {
		if denied, err := deniedTo(uid, gid, device, unix.R_OK|unix.W_OK); err == nil && denied != "" {
			return warning(check, "chgrp kvm "+device+" && chmod 660 "+device,
				"%s may not be used by QEMU's user %d: machines are slow, and libvirt looks at QEMU anew at every start, for up to 86 s", device, uid)
		}
	}
	if r := probe(); !r.Works {
		return warning(check, "", "no hardware acceleration: %s; machines are emulated in software, several times slower", r.Reason)
	}
	return ok(check, "KVM runs guests")
}

// diagnosePrograms looks for the programs that libvirt and the provider run.
func diagnosePrograms(o Options) []providers.Finding {
	var out []providers.Finding
	for _, p := range []struct{ program, pkg, purpose string }{
		{o.QemuImg, "qemu-utils", "images and disks are made by it"},
		{"dnsmasq", "dnsmasq-base", "hostonly and nat networks need it for DHCP"},
		{"iptables", "iptables", "libvirt makes networks with it"},
	} {
		path, err := findProgram(p.program)
		if err != nil {
			out = append(out, missing(p.program, "apt-get install "+p.pkg, "it is not installed: %s", p.purpose))
			continue
		}
		out = append(out, ok(filepath.Base(p.program), "%s", path))
	}
	return out
}

// findProgram looks where daemons look, too, which is not in every user's PATH.
func findProgram(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || strings.Contains(name, "/") {
		return path, err
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", err
}

// diagnoseFirewall finds out whether rules can be read and, by the process's
// capabilities, changed.
func diagnoseFirewall(o Options) providers.Finding {
	const check = "firewall"
	switch _, err := firewall.New(o.Instance).Check(); {
	case err == nil, errors.Is(err, firewall.ErrNotInForce):
		if !hasNetAdmin() {
			break
		}
		return ok(check, "nftables can be used")
	case !errors.Is(err, firewall.ErrNotPermitted):
		return missing(check, "modprobe nf_tables", "the kernel's nftables cannot be used: %v", err)
	}
	return warning(check, "run the daemon as root, or give it CAP_NET_ADMIN",
		"this process lacks CAP_NET_ADMIN: only the network modes none and bridged are possible so")
}

func hasNetAdmin() bool {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	return unix.Capget(&h, &d[0]) == nil && d[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
}

// diagnoseDataDir finds out whether QEMU's user can pass through to the data
// folder, or to the part of its path that exists.
func diagnoseDataDir(o Options, uid, gid int) providers.Finding {
	const check = "data folder for QEMU"
	if uid <= 0 {
		return ok(check, "QEMU runs as root, or its user is not known")
	}
	dir := o.DataDir
	for !files.Exists(dir) {
		dir = filepath.Dir(dir)
	}
	denied, err := deniedTo(uid, gid, dir, unix.X_OK)
	switch {
	case errors.Is(err, os.ErrPermission):
		return warning(check, "run it as root: sudo sandboxd doctor", "whether QEMU's user %d reaches %s cannot be found out by this user", uid, o.DataDir)
	case err != nil:
		return warning(check, "", "%s cannot be examined: %v", o.DataDir, err)
	case denied != "":
		return missing(check, "chmod o+x "+denied, "QEMU's user %d may not pass through %s", uid, denied)
	}
	return ok(check, "QEMU's user %d can pass through to %s", uid, o.DataDir)
}

// diagnoseConfinement looks for the kernel's means to confine qemu-img.
func diagnoseConfinement() providers.Finding {
	const check = "qemu-img's confinement"
	if qemuimg.Confined() {
		return ok(check, "the kernel has Landlock: qemu-img opens only the files it is given")
	}
	return warning(check, "boot with landlock in the kernel's lsm= list",
		"the kernel has no Landlock: qemu-img runs unconfined on images that only the header check has looked at")
}

// diagnoseSourceCheck looks at the kernel's own check of source addresses.
func diagnoseSourceCheck(path string) providers.Finding {
	const check = "source addresses"
	b, err := os.ReadFile(path)
	if err == nil && slices.Contains([]string{"1", "2"}, strings.TrimSpace(string(b))) {
		return ok(check, "the kernel checks them (rp_filter)")
	}
	return warning(check, "sysctl -w net.ipv4.conf.all.rp_filter=1",
		"the kernel does not check them (rp_filter is 0): on sandboxd's networks its own rules do, elsewhere nothing does")
}
