//go:build linux

package kvm_test

import (
	"encoding/xml"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// needed are the devices that a machine without a network has when libvirt has added
// its own to them, by their element, type and model.
var needed = []string{
	"emulator", "disk file", "controller usb none", "controller pci pci-root", "controller virtio-serial",
	"serial pty", "console pty", "channel unix", "memballoon none", "rng virtio", "input mouse", "input keyboard", "audio none",
}

// TestDevicesOfLibvirt: whatever libvirt adds to a definition by itself, a machine
// that runs has no USB, sound, display, clipboard, or device of the host, and QEMU may
// start no processes.
func TestDevicesOfLibvirt(t *testing.T) {
	l := newLab(t)
	id := l.boot(t, "machine", v1.Network{Mode: v1.NetworkNone})
	var d struct {
		Devices struct {
			All []struct {
				XMLName xml.Name
				Type    string `xml:"type,attr"`
				Model   string `xml:"model,attr"`
			} `xml:",any"`
		} `xml:"devices"`
	}
	must(t, xml.Unmarshal([]byte(run(t, "virsh", "dumpxml", string(id))), &d))
	for _, e := range d.Devices.All {
		if what := strings.TrimSpace(e.XMLName.Local + " " + strings.TrimSpace(e.Type+" "+e.Model)); !slices.Contains(needed, what) {
			t.Errorf("the machine has the device %q", what)
		}
	}
	line := qemuLine(t, string(id))
	for _, word := range []string{"usb-", "-vnc", "-spice", "AC97", "intel-hda", "virtio-vga", "qxl", "vhost-vsock", "-netdev"} {
		if strings.Contains(line, word) {
			t.Errorf("QEMU was started with %s:\n%s", word, line)
		}
	}
	if !strings.Contains(line, "-sandbox on,") || !strings.Contains(line, "spawn=deny") {
		t.Errorf("QEMU is not confined by seccomp:\n%s", line)
	}
}

// qemuLine is the command line of a machine's QEMU.
func qemuLine(t *testing.T, id string) string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, path := range all {
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), "qemu") && strings.Contains(string(b), "-uuid\x00"+id) {
			return strings.ReplaceAll(string(b), "\x00", " ")
		}
	}
	t.Fatal("there is no QEMU of it")
	return ""
}

// TestFilesOfMachines: what a machine consists of, its seed with what a manifest says
// to the guest among it, is for the daemon's user and QEMU's alone.
func TestFilesOfMachines(t *testing.T) {
	l := newLab(t)
	l.boot(t, "machine", v1.Network{Mode: v1.NetworkNone})
	if info, err := os.Stat(l.dataDir(l.instance)); err != nil || info.Mode().Perm() != 0o710 {
		t.Errorf("the data folder: %v, %v", info.Mode(), err)
	}
	files := 0
	must(t, filepath.WalkDir(l.dataDir(l.instance), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		files++
		if open := info.Mode().Perm() & 0o007; open != 0 && !closed(t, path, l.dataDir(l.instance)) {
			t.Errorf("%s has the mode %s", path, info.Mode())
		}
		return nil
	}))
	if files < 3 {
		t.Errorf("there are %d files only", files)
	}
	// A process that follows does not open it again, not even until it has asked
	// libvirt.
	must(t, l.p.Close())
	l.p = l.open(t, l.instance)
	if info, err := os.Stat(l.dataDir(l.instance)); err != nil || info.Mode().Perm() != 0o710 {
		t.Errorf("the data folder after a restart: %v, %v", info.Mode(), err)
	}
}

// closed tells whether others are kept out by a folder on the way to a file.
func closed(t *testing.T, path, below string) bool {
	t.Helper()
	for dir := filepath.Dir(path); dir == below || strings.HasPrefix(dir, below+"/"); dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		must(t, err)
		if info.Mode().Perm()&0o001 == 0 {
			return true
		}
	}
	return false
}
