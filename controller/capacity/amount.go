package capacity

import (
	"fmt"
	"math"
	"strings"
)

// Resource is something that there is only so much of.
type Resource int

// The resources.
const (
	// Memory in bytes.
	Memory Resource = iota
	// CPUs as guests see them.
	CPUs
	// Disk in bytes, as guests see it.
	Disk
	// Sandboxes: how many machines there are.
	Sandboxes
	// Resources is how many there are.
	Resources
)

// String is the name of the resource's setting below capacity.
func (r Resource) String() string {
	return [Resources]string{"memory", "cpus", "disk", "sandboxes"}[r]
}

// Amount is so much of each resource.
type Amount [Resources]int64

// Unlimited is the amount of a resource in a budget that does not limit it.
const Unlimited = math.MaxInt64

// NoLimit is a budget that limits nothing.
func NoLimit() Amount { return Amount{Unlimited, Unlimited, Unlimited, Unlimited} }

// Plus is the sum of both.
func (a Amount) Plus(b Amount) Amount {
	for r := range a {
		a[r] += b[r]
	}
	return a
}

// Minus is what is left; less than nothing where b is more.
func (a Amount) Minus(b Amount) Amount {
	for r := range a {
		a[r] -= b[r]
	}
	return a
}

// Max is the larger of both, of each resource.
func (a Amount) Max(b Amount) Amount {
	for r := range a {
		a[r] = max(a[r], b[r])
	}
	return a
}

// Covers tells whether a is at least b, of each resource.
func (a Amount) Covers(b Amount) bool {
	for r := range a {
		if a[r] < b[r] {
			return false
		}
	}
	return true
}

// free is what is left of a budget; what is not limited stays so.
func (a Amount) free(held Amount) Amount {
	for r := range a {
		if a[r] != Unlimited {
			a[r] -= held[r]
		}
	}
	return a
}

// String says to a person what there is of it: 2Gi memory, 1 cpu and 10Gi disk.
func (a Amount) String() string {
	var parts []string
	for r, n := range a {
		if n > 0 {
			parts = append(parts, wanted(Resource(r), n))
		}
	}
	switch n := len(parts); n {
	case 0:
		return "nothing"
	case 1:
		return parts[0]
	default:
		return strings.Join(parts[:n-1], ", ") + " and " + parts[n-1]
	}
}

// wanted words what is asked for of a resource.
func wanted(r Resource, n int64) string {
	switch {
	case n == Unlimited && (r == Memory || r == Disk):
		return "any amount of " + r.String()
	case n == Unlimited:
		return "any number of " + r.String()
	case r == Sandboxes && n == 1:
		return "a place"
	case r == Sandboxes:
		return fmt.Sprintf("%d places", n)
	case r == CPUs && n == 1:
		return "1 cpu"
	case r == CPUs:
		return fmt.Sprintf("%d cpus", n)
	default:
		return size(n, true) + " " + r.String()
	}
}

// figure words a number of a resource that there is.
func figure(r Resource, n int64) string {
	n = max(n, 0)
	switch {
	case n == Unlimited:
		return "unlimited"
	case r == Memory || r == Disk:
		return size(n, false)
	default:
		return fmt.Sprint(n)
	}
}

// size words bytes with one digit after the point at most. What is wanted is rounded
// up and what there is down, so that the one never looks like it fits into the other.
func size(bytes int64, up bool) string {
	const kibi = 1 << 10
	units := []string{"Ki", "Mi", "Gi", "Ti", "Pi"}
	unit, name := int64(kibi), units[0]
	for _, u := range units[1:] {
		if bytes/kibi < unit {
			break
		}
		unit, name = unit*kibi, u
	}
	whole, rest := bytes/unit, bytes%unit
	tenths := rest * 10 / unit
	if up && rest*10%unit > 0 {
		tenths++
	}
	switch tenths {
	case 0:
		return fmt.Sprintf("%d%s", whole, name)
	case 10:
		return fmt.Sprintf("%d%s", whole+1, name)
	default:
		return fmt.Sprintf("%d.%d%s", whole, tenths, name)
	}
}
