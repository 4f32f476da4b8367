package capacity

import (
	"math"

	"k8s.io/apimachinery/pkg/types"
)

// Settings are what a configuration says of the budget.
type Settings struct {
	// Total of each resource; 0 is worked out from the host. The number of sandboxes
	// has no limit then.
	Total Amount
	// Overcommit is what the totals of memory, cpus and disk are multiplied by; 0
	// takes their limit away.
	Overcommit [Disk + 1]float64
}

// Facts are what was seen of the host.
type Facts struct {
	// Memory of the host, in bytes, and its logical CPUs.
	Memory, CPUs int64
	// DiskSize and DiskFree of the file system that disks are made on, in bytes.
	DiskSize, DiskFree int64
	// Machines are the bytes that the folder of each machine takes there.
	Machines map[types.UID]int64
}

// The host keeps a part for itself.
const (
	minMemoryReserve  = 1 << 30
	memoryReservePart = 10 // one in so many
	diskReservePart   = 20
	// diskStep is what a disk's size is rounded to, so that a budget that is worked
	// out again and again does not change with every file.
	diskStep = 256 << 20
)

// Budget works out what there is for machines. reserved is what is reserved for each
// of those that take room on the disk: no more of it than that is theirs to use again.
func (s Settings) Budget(f Facts, reserved func(types.UID) Amount) Amount {
	total := s.Total
	if total[Memory] == 0 {
		total[Memory] = f.Memory - max(minMemoryReserve, f.Memory/memoryReservePart)
	}
	if total[CPUs] == 0 {
		total[CPUs] = f.CPUs
	}
	if total[Disk] == 0 {
		total[Disk] = diskOf(f, reserved)
	}
	for r, factor := range s.Overcommit {
		total[r] = scaled(max(total[r], 0), factor)
	}
	if total[Sandboxes] == 0 {
		total[Sandboxes] = Unlimited
	}
	return total
}

// NeedsDisk tells whether the budget depends on what is free on the disk.
func (s Settings) NeedsDisk() bool { return s.Total[Disk] == 0 && s.Overcommit[Disk] != 0 }

func diskOf(f Facts, reserved func(types.UID) Amount) int64 {
	room := f.DiskFree - f.DiskSize/diskReservePart
	for id, used := range f.Machines {
		room += min(used, reserved(id)[Disk])
	}
	return room / diskStep * diskStep
}

// Most is what there may be for machines, at the most: of a budget that follows what is
// free on the disk, all that the file system could give. Who needs more needs too much.
func (s Settings) Most(f Facts, budget Amount) Amount {
	if s.NeedsDisk() {
		room := f.DiskSize - f.DiskSize/diskReservePart
		budget[Disk] = max(budget[Disk], scaled(max(room/diskStep*diskStep, 0), s.Overcommit[Disk]))
	}
	return budget
}

func scaled(n int64, factor float64) int64 {
	product := float64(n) * factor
	if factor == 0 || product >= math.MaxInt64/2 {
		return Unlimited
	}
	return int64(product)
}
