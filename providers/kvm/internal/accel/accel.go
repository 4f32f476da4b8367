// Package accel finds out whether KVM really runs guests here.
//
// That /dev/kvm exists, and even that it makes machines, says too little: under
// some hypervisors it does both and then fails on the first guest. So the
// processor's flags are looked at, and a virtual CPU runs four instructions.
package accel

import (
	"fmt"
	"os"
	"strings"
)

// Result of a probe.
type Result struct {
	Works bool
	// Reason why it does not work, in plain words.
	Reason string
}

// device of KVM.
const device = "/dev/kvm"

// Probe tries KVM. It takes some milliseconds, and at most a few seconds.
func Probe() Result {
	return probe(device, "/proc/cpuinfo", runGuest)
}

func probe(device, cpuinfo string, run func(*os.File) error) Result {
	info, err := os.ReadFile(cpuinfo)
	if err == nil && !hasVirtualization(string(info)) {
		return Result{Reason: "the processor offers no virtualization (no vmx or svm flag): enable it in the firmware, or nested virtualization in the hypervisor below"}
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		if os.IsNotExist(err) {
			return Result{Reason: device + " does not exist: load the module kvm_intel or kvm_amd"}
		}
		return Result{Reason: fmt.Sprintf("%s cannot be opened: %v", device, err)}
	}
	defer func() { _ = f.Close() }()
	if err := run(f); err != nil {
		return Result{Reason: fmt.Sprintf("%s exists, but does not run a guest: %v", device, err)}
	}
	return Result{Works: true}
}

// hasVirtualization looks for the flags of Intel's and AMD's extensions.
func hasVirtualization(cpuinfo string) bool {
	for line := range strings.Lines(cpuinfo) {
		key, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) != "flags" {
			continue
		}
		for _, flag := range strings.Fields(value) {
			if flag == "vmx" || flag == "svm" {
				return true
			}
		}
		return false
	}
	return false
}
