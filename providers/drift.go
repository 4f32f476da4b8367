package providers

import (
	"slices"
	"strings"
)

// Remedy is what puts a machine right again that others have changed.
type Remedy string

// The remedies, from the mildest.
const (
	// RemedyEnsure: EnsureMachine puts it right now, whatever the machine's power
	// state, and the guest notices nothing.
	RemedyEnsure Remedy = "Ensure"
	// RemedyOff: EnsureMachine puts it right once the machine is off, or Start when a
	// saved one goes on, and until then it does no harm.
	RemedyOff Remedy = "Off"
	// RemedyPowerOff: EnsureMachine puts it right once the machine is off, and it
	// must not run on as it is: what its isolation rests on was changed.
	RemedyPowerOff Remedy = "PowerOff"
	// RemedyNone: putting it right would destroy data, or cannot be done from
	// here; Advice says what people can do.
	RemedyNone Remedy = "None"
)

// Drift is one way in which a machine differs from what was made of its spec,
// because of others. That the spec itself was changed since is none: Hashes tell
// that.
type Drift struct {
	// Reason is one of the API's reasons for the condition Drifted.
	Reason string
	// Detail says what differs from what, without a name of the machine and
	// without an end: "its memory is 512 MiB, and was made as 256 MiB". It is bounded,
	// printable, and the same for the same difference.
	Detail string
	// Remedy of it.
	Remedy Remedy
	// Advice, with RemedyNone, is what people can do, as an order: "put the file back, or
	// delete the sandbox".
	Advice string
}

// Worst is the drift with the strongest remedy, the first of these; false when
// there is none.
func Worst(drifts []Drift) (Drift, bool) {
	order := []Remedy{RemedyEnsure, RemedyOff, RemedyNone, RemedyPowerOff}
	if len(drifts) == 0 {
		return Drift{}, false
	}
	return slices.MaxFunc(drifts, func(a, b Drift) int {
		return slices.Index(order, a.Remedy) - slices.Index(order, b.Remedy)
	}), true
}

// Details joins what differs to one text.
func Details(drifts []Drift) string {
	details := make([]string, len(drifts))
	for i, d := range drifts {
		details[i] = d.Detail
	}
	return strings.Join(details, "; ")
}
