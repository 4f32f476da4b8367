package capacity

import (
	"k8s.io/apimachinery/pkg/api/resource"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// Reservation is an amount as a status has it; nil for nothing.
func (a Amount) Reservation() *v1.Reservation {
	if a == (Amount{}) {
		return nil
	}
	quantity := func(bytes int64) *resource.Quantity {
		if bytes == 0 {
			return nil
		}
		return resource.NewQuantity(bytes, resource.BinarySI)
	}
	return &v1.Reservation{Memory: quantity(a[Memory]), CPUs: int32(a[CPUs]), Disk: quantity(a[Disk])} //nolint:gosec // checked by the API
}

// Reserved is the amount that a status tells of.
func Reserved(r *v1.Reservation) Amount {
	if r == nil {
		return Amount{}
	}
	a := Amount{CPUs: int64(r.CPUs), Sandboxes: 1}
	if r.Memory != nil {
		a[Memory] = r.Memory.Value()
	}
	if r.Disk != nil {
		a[Disk] = r.Disk.Value()
	}
	return a
}
