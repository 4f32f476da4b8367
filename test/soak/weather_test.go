package soak

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fault"
)

// kinds of errors that the weather brings, and how they are called in the summary.
// ErrNotFound is not among them: the contract promises that it is never said of what
// is there, and to delete what is said to be gone would be right.
var kinds = []struct {
	name string
	err  error
}{
	{"busy", providers.ErrBusy},
	{"unavailable", providers.ErrUnavailable},
	{"capacity", providers.ErrCapacity},
	{"already exists", providers.ErrAlreadyExists},
	{"no kind", errors.New("something went wrong")},
	{"deadline", context.DeadlineExceeded},
	{"invalid", providers.ErrInvalid},
	{"unsupported", providers.ErrUnsupported},
}

// weather makes calls of the provider go wrong, and counts what is called.
type weather struct {
	mu     sync.Mutex
	random *rand.Rand
	storm  bool
	full   bool
	faults map[string]int
	calls  int
	// refused are the machines about which a terminal error was told that was not
	// true: they stall until somebody changes their spec.
	refused map[types.UID]bool
	// failing counts, by what is called on and by the minute, the calls that failed.
	failing  map[failing]int
	worst    int
	worstOf  failing
	worstErr error
}

type failing struct {
	verb, id string
	minute   int64
}

// oneIn calls goes wrong in a storm.
const oneIn = 12

func newWeather(seed uint64) *weather {
	return &weather{
		random: rand.New(rand.NewPCG(seed, 1)), faults: map[string]int{},
		refused: map[types.UID]bool{}, failing: map[failing]int{},
	}
}

func (w *weather) set(storm, full bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.storm, w.full = storm, full
}

func (w *weather) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults[what]++
}

func (w *weather) total() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.faults {
		n += f
	}
	return n
}

// hook is the hook of package fault.
func (w *weather) hook(_ context.Context, at fault.Point) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at.When == fault.Before {
		w.calls++
	}
	err := w.fault(at)
	if failed := errors.Join(err, at.Err); failed != nil && at.ID != "" && !errors.Is(failed, providers.ErrNotFound) && !errors.Is(failed, context.Canceled) {
		w.failed(at.Verb, at.ID, failed)
	}
	return err
}

func (w *weather) fault(at fault.Point) error {
	makes := at.Verb == "EnsureMachine" || at.Verb == "Start"
	if w.full && makes && at.When == fault.Before {
		w.faults["full host"]++
		return providers.Errorf(providers.ErrCapacity, "machine "+at.ID, "the host is full")
	}
	if !w.storm || w.random.IntN(oneIn) != 0 {
		return nil
	}
	if at.When == fault.Before && w.random.IntN(4) == 0 {
		w.faults["cancelled midway"]++
		time.AfterFunc(time.Duration(w.random.IntN(50))*time.Millisecond, at.Cancel)
		return nil
	}
	k := kinds[w.random.IntN(len(kinds))]
	if providers.IsTerminal(k.err) {
		if !makes {
			return nil
		}
		w.refused[types.UID(at.ID)] = true
	}
	if at.When == fault.After {
		w.faults["lost outcome"]++
	} else {
		w.faults["error: "+k.name]++
	}
	if providers.KindOf(k.err) == nil {
		return k.err
	}
	return providers.Errorf(k.err, at.Verb+" "+at.ID, "a fault was injected %s the call", at.When)
}

func (w *weather) failed(verb, id string, err error) {
	f := failing{verb, id, time.Now().Unix() / 60}
	if w.failing[f]++; w.failing[f] > w.worst {
		w.worst, w.worstOf, w.worstErr = w.failing[f], f, err
	}
	if len(w.failing) > 10000 {
		for k := range w.failing {
			if k.minute < f.minute-1 {
				delete(w.failing, k)
			}
		}
	}
}

// lied tells whether a terminal error was told of a machine that was not true.
func (w *weather) lied(id types.UID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refused[id]
}
