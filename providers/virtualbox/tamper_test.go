package virtualbox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers/conformance"
)

// Why some tamperings cannot be shown.
const (
	noNetwork = "VirtualBox's NAT is in the machine's process, and its host-only adapters need its kernel driver; that one is gone is tested with a scripted VBoxManage"
	locked    = "VirtualBox lets nobody change the definition of a machine that is on"
)

// tamper changes a machine as somebody does who has VBoxManage.
func tamper(t testing.TB, id types.UID, how conformance.Tampering) {
	t.Helper()
	vm := string(id)
	switch how {
	case conformance.TamperMemory:
		asSomebody(t, "modifyvm", vm, "--memory", "77")
	case conformance.TamperCPUs:
		asSomebody(t, "modifyvm", vm, "--cpus", "3")
	case conformance.TamperName:
		asSomebody(t, "modifyvm", vm, "--name", "mine-"+vm[:8])
	case conformance.TamperDevice:
		asSomebody(t, "modifyvm", vm, "--usb-ohci", "on", "--clipboard-mode", "bidirectional")
	case conformance.TamperNIC:
		if shown(t, id, "VMState") == "running" {
			asSomebody(t, "controlvm", vm, "nic1", "null")
		} else {
			asSomebody(t, "modifyvm", vm, "--nic8", "nat")
		}
	case conformance.TamperDisk:
		at := placeOf(t, id)
		asSomebody(t, "storageattach", vm, "--storagectl", at[0], "--port", at[1], "--device", at[2], "--type", "hdd", "--medium", otherDisk(t))
	case conformance.TamperDiskFile:
		must(t, os.Remove(diskOf(t, id)))
	case conformance.TamperSnapshot:
		asSomebody(t, "snapshot", vm, "take", "mine")
	default:
		t.Fatalf("%s is not shown here", how)
	}
}

// asSomebody runs VBoxManage as soon as nobody else has the machine.
func asSomebody(t testing.TB, args ...string) {
	t.Helper()
	eventually(t, strings.Join(args, " "), func() bool { return tryManage(args...) == nil })
}

// shown is what VirtualBox says of a machine by a key.
func shown(t testing.TB, id types.UID, key string) string {
	t.Helper()
	out := manage(t, "showvminfo", string(id), "--machinereadable")
	found := regexp.MustCompile(`(?m)^"?` + key + `"?="?([^"\n]*)"?$`).FindStringSubmatch(out)
	if found == nil {
		return ""
	}
	return found[1]
}

var hardDisk = regexp.MustCompile(`(?m)^"([^"\n]+)-([0-9]+)-([0-9]+)"="([^"\n]+\.vdi)"$`)

// placeOf is where a machine's first hard disk is: controller, port and device.
func placeOf(t testing.TB, id types.UID) []string {
	t.Helper()
	return firstDisk(t, id)[1:4]
}

// diskOf is the file of a machine's first hard disk.
func diskOf(t testing.TB, id types.UID) string {
	t.Helper()
	return firstDisk(t, id)[4]
}

func firstDisk(t testing.TB, id types.UID) []string {
	t.Helper()
	out := manage(t, "showvminfo", string(id), "--machinereadable")
	found := hardDisk.FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("the machine has no disk: %s", out)
	}
	return found
}

// otherDisk is a disk of somebody else's, which is still there after the test.
func otherDisk(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mine.vdi")
	run(t, "qemu-img", "convert", "-O", "vdi", haltDisk(t).Path, path)
	t.Cleanup(func() {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("somebody else's disk was removed: %v", err)
		}
		_ = tryManage("closemedium", "disk", path)
	})
	return path
}

// otherCD is somebody else's image of a CD, which is still there after the test.
func otherCD(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), fmt.Sprintf("mine-%s.iso", newID()))
	must(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
	t.Cleanup(func() {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("somebody else's CD was removed: %v", err)
		}
		_ = tryManage("closemedium", "dvd", path)
	})
	return path
}
