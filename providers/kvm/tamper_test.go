//go:build linux

package kvm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/conformance"
)

// tamper changes a machine as somebody with virsh does, who is connected to the
// bridge.
func (h *host) tamper(t testing.TB, id types.UID, how conformance.Tampering, instance providers.Instance, bridge string) {
	t.Helper()
	on := strings.TrimSpace(run(t, "virsh", "domstate", string(id))) == "running"
	disk := filepath.Join(h.dataDir(instance), "machines", string(id), "disk.qcow2")
	switch how {
	case conformance.TamperMemory:
		run(t, "virsh", "setmaxmem", string(id), "200M", "--config")
	case conformance.TamperCPUs:
		redefine(t, id, ">1</vcpu>", ">3</vcpu>")
	case conformance.TamperName:
		run(t, "virsh", "domrename", string(id), "renamed-"+string(id))
	case conformance.TamperNIC:
		args := []string{"attach-interface", string(id), "bridge", bridge, "--config"}
		if on {
			args = append(args, "--live")
		}
		run(t, "virsh", args...)
	case conformance.TamperDisk:
		other := filepath.Join(h.folder(t), "other.qcow2")
		run(t, "qemu-img", "create", "-q", "-f", "qcow2", other, "64M")
		redefine(t, id, disk, other)
	case conformance.TamperDevice:
		redefine(t, id, "<devices>", "<devices><sound model='ac97'/>")
	case conformance.TamperDiskFile:
		if err := os.Remove(disk); err != nil {
			t.Fatal(err)
		}
	case conformance.TamperSnapshot:
		args := []string{"snapshot-create-as", string(id), "by-hand"}
		if on {
			args = append(args, "--disk-only", "--diskspec", "vdb,snapshot=no")
		}
		run(t, "virsh", args...)
	case conformance.TamperNetwork:
		run(t, "virsh", "net-destroy", networkOf(t, id))
	default:
		t.Fatalf("nobody knows how to tamper with the %s", how)
	}
}

// networkOf is the network that a machine is defined to be connected to.
func networkOf(t testing.TB, id types.UID) string {
	t.Helper()
	_, name, _ := strings.Cut(run(t, "virsh", "dumpxml", "--inactive", string(id)), "<source network='")
	name, _, found := strings.Cut(name, "'")
	if !found {
		t.Fatalf("machine %s has no network", id)
	}
	return name
}

// redefine changes a text in what the next start of a machine is made from.
func redefine(t testing.TB, id types.UID, old, changed string) {
	t.Helper()
	text := run(t, "virsh", "dumpxml", "--inactive", string(id))
	after := strings.Replace(text, old, changed, 1)
	if after == text {
		t.Fatalf("%q is not in %s", old, text)
	}
	file := filepath.Join(t.TempDir(), "domain.xml")
	if err := os.WriteFile(file, []byte(after), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "virsh", "define", file)
}
