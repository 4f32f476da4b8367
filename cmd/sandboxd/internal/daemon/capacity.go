package daemon

import (
	"math"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/config"
	"sandboxd.dev/sandboxd/controller"
	"sandboxd.dev/sandboxd/controller/capacity"
	"sandboxd.dev/sandboxd/providers"
)

// measureInterval is how often it is worked out again what is free on the disk, which
// others fill and empty too.
const measureInterval = time.Minute

// hostCapacity is what the host has for machines. Simulated ones take nothing of it:
// they have what is configured, and no limit otherwise.
func hostCapacity(c config.Config, simulate bool) controller.Capacity {
	settings := capacitySettings(c.Capacity)
	if simulate {
		for r, n := range settings.Total[:capacity.Sandboxes] {
			if n == 0 {
				settings.Overcommit[r] = 0
			}
		}
	}
	budget := func(reserved func(types.UID) capacity.Amount) (budget, most capacity.Amount, err error) {
		return measured(c, settings, reserved)
	}
	if settings.NeedsDisk() {
		return controller.Capacity{Budget: budget, Measure: measureInterval}
	}
	return controller.Capacity{Budget: budget}
}

func capacitySettings(c config.Capacity) capacity.Settings {
	return capacity.Settings{
		Total: capacity.Amount{
			capacity.Memory: c.Memory.Value(), capacity.CPUs: int64(c.CPUs),
			capacity.Disk: c.Disk.Value(), capacity.Sandboxes: int64(c.Sandboxes),
		},
		Overcommit: [capacity.Disk + 1]float64{c.Overcommit.Memory, c.Overcommit.CPUs, c.Overcommit.Disk},
	}
}

func measured(c config.Config, s capacity.Settings, reserved func(types.UID) capacity.Amount) (budget, most capacity.Amount, err error) {
	var folders []string
	if s.NeedsDisk() {
		folders = machineFolders(c)
	}
	facts, err := capacity.Host(folders...)
	if err != nil {
		return capacity.Amount{}, capacity.Amount{}, err
	}
	budget = s.Budget(facts, reserved)
	return budget, s.Most(facts, budget), nil
}

// machineFolders are those in which each machine has a folder of its own, that of the
// default hypervisor first.
func machineFolders(c config.Config) []string {
	folders := []string{filepath.Join(c.DataDir, "kvm", "machines"), filepath.Join(c.VirtualBox.MachineFolder, "machines")}
	if c.Hypervisor == v1.ProviderVirtualBox {
		slices.Reverse(folders)
	}
	return folders
}

// HostCapacity is what this host has for machines by the configuration, as a daemon
// would find it that has the disks which there are.
func HostCapacity(c config.Config) (capacity.Amount, error) {
	all := func(types.UID) capacity.Amount { return capacity.Amount{capacity.Disk: math.MaxInt64} }
	budget, _, err := measured(c, capacitySettings(c.Capacity), all)
	return budget, err
}

// CapacityCheck says what machines may have on this host.
func CapacityCheck(c config.Config) providers.Finding {
	f := providers.Finding{Check: "capacity", Severity: providers.SeverityOK}
	budget, err := HostCapacity(c)
	if err != nil {
		f.Severity, f.Message = providers.SeverityWarning, "what machines may have cannot be worked out: "+err.Error()
		f.Fix = "run this as the daemon's user"
		return f
	}
	if missing := lacking(budget); missing != "" {
		f.Severity, f.Message = providers.SeverityWarning, "there is no "+missing+" for machines: no sandbox starts"
		f.Fix = "free some, or set capacity." + missing
		return f
	}
	f.Message = "machines may have " + budget.String()
	return f
}

// lacking is the first resource that there is nothing of.
func lacking(budget capacity.Amount) string {
	for r, n := range budget {
		if n == 0 {
			return capacity.Resource(r).String()
		}
	}
	return ""
}
