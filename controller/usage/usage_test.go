package usage_test

import (
	"testing"
	"time"

	testclock "k8s.io/utils/clock/testing"

	"sandboxd.dev/sandboxd/controller/usage"
)

func TestTracker(t *testing.T) {
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := testclock.NewFakePassiveClock(begin)
	tracker := usage.New(c)
	last := func(want time.Duration) {
		t.Helper()
		if got := tracker.Last("a"); !got.Equal(begin.Add(want)) {
			t.Errorf("last used at %v, want %v", got, begin.Add(want))
		}
	}
	if got := tracker.Last("a"); !got.IsZero() {
		t.Errorf("never used, and last used at %v", got)
	}
	one := tracker.Begin("a")
	c.SetTime(begin.Add(time.Minute))
	last(time.Minute) // it is in use now
	two := tracker.Begin("a")
	one()
	c.SetTime(begin.Add(2 * time.Minute))
	last(2 * time.Minute) // by the other one
	two()
	c.SetTime(begin.Add(time.Hour))
	last(2 * time.Minute)
	if got := tracker.Last("b"); !got.IsZero() {
		t.Errorf("another one was last used at %v", got)
	}
	tracker.Forget("a")
	if got := tracker.Last("a"); !got.IsZero() {
		t.Errorf("forgotten, and last used at %v", got)
	}
}
