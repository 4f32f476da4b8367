package daemon

import (
	"runtime"
	"testing"
)

func TestTrimmer(t *testing.T) {
	const mb = 1 << 20
	var trim trimmer
	steps := []struct {
		name                  string
		m                     memory
		resting, due, settled bool
		left                  uint64 // heap after the trim
	}{
		{"starting", memory{allocated: 40 * mb, heap: 40 * mb}, false, false, false, 0},
		{"at rest after the start", memory{allocated: 41 * mb, heap: 40 * mb}, true, true, true, 20 * mb},
		{"at rest", memory{allocated: 42 * mb, heap: 22 * mb}, true, false, false, 0},
		{"a burst", memory{allocated: 900 * mb, heap: 200 * mb}, false, false, false, 0},
		{"more of it", memory{allocated: 1200 * mb, heap: 250 * mb}, false, false, false, 0},
		{"at rest after it", memory{allocated: 1201 * mb, heap: 250 * mb}, true, true, true, 60 * mb},
		{"slow garbage", memory{allocated: 1202 * mb, heap: 63 * mb}, true, false, false, 0},
		{"much slow garbage", memory{allocated: 1203 * mb, heap: 76 * mb}, true, true, false, 60 * mb},
		{"a look at many objects", memory{allocated: 1217 * mb, heap: 91 * mb, live: 60 * mb}, true, true, false, 60 * mb},
		{"work on many objects", memory{allocated: 1233 * mb, heap: 91 * mb, live: 60 * mb}, false, false, false, 0},
		{"less than before", memory{allocated: 1234 * mb, heap: 30 * mb}, true, false, true, 0},
		{"something", memory{allocated: 1240 * mb, heap: 37 * mb}, false, false, false, 0},
		{"at rest again", memory{allocated: 1241 * mb, heap: 37 * mb}, true, false, true, 0},
		{"something more", memory{allocated: 1250 * mb, heap: 38 * mb}, false, false, false, 0},
		{"at rest after that", memory{allocated: 1251 * mb, heap: 38 * mb}, true, true, true, 30 * mb},
	}
	for _, s := range steps {
		due, settled := trim.due(s.m)
		if due != s.due || settled != s.settled {
			t.Errorf("%s: due %v, settled %v, want %v and %v", s.name, due, settled, s.due, s.settled)
		}
		if rest := trim.percent() != busyPercent; rest != s.resting {
			t.Errorf("%s: it is taken for rest: %v", s.name, rest)
		}
		if due {
			trim.done(memory{allocated: s.m.allocated, heap: s.left})
		}
	}
}

func TestGrowth(t *testing.T) {
	const mb = 1 << 20
	for live, want := range map[uint64]int{0: 25, 10 * mb: 25, 48 * mb: 25, 60 * mb: 20, 100 * mb: 12, 120 * mb: 10, 1000 * mb: 10} {
		if got := (&trimmer{resting: true, live: live}).percent(); got != want {
			t.Errorf("a heap of %d MiB at rest grows by %d %%, want %d", live/mb, got, want)
		}
	}
	if got := (&trimmer{live: 60 * mb}).percent(); got != busyPercent {
		t.Errorf("at work a heap grows by %d %%", got)
	}
}

func TestReadMemory(t *testing.T) {
	before := readMemory()
	if before.allocated == 0 || before.heap == 0 {
		t.Fatalf("nothing was read: %+v", before)
	}
	garbage := make([]byte, 32<<20)
	after := readMemory()
	runtime.KeepAlive(garbage)
	if after.allocated-before.allocated < 32<<20 {
		t.Errorf("an allocation of 32 MiB raised the sum by %d bytes only", after.allocated-before.allocated)
	}
}
