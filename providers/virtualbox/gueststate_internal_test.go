package virtualbox

import (
	"context"
	"errors"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers/virtualbox/internal/guestcontrol"
)

// TestDoor: commands begin one after the other where the processor is emulated,
// and so many run at a time everywhere; each guest has a door of its own, which
// is gone with its last user.
func TestDoor(t *testing.T) {
	for engine, begins := range map[string]int{EngineInterpreter: 1, EngineRecompiler: 1, EngineNative: sessions, EngineDefault: sessions} {
		g := newGuestStates(engine)
		full := func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			_, leave, err := g.enter(ctx, "a")
			if err == nil {
				leave()
			} else if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", engine, err)
			}
			return err != nil
		}
		var begun, left []func()
		for n := range sessions {
			if n == begins && !full() {
				t.Errorf("%s: more than %d commands begin at a time", engine, n)
			}
			if n >= begins {
				begun[n-begins]()
			}
			b, leave, err := g.enter(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			begun, left = append(begun, b), append(left, leave)
		}
		for _, b := range begun {
			b()
		}
		if !full() {
			t.Errorf("%s: more than %d commands run at a time", engine, sessions)
		}
		if _, leave, err := g.enter(t.Context(), "b"); err != nil {
			t.Error(err)
		} else {
			leave()
		}
		for _, leave := range left {
			leave()
		}
		if full() || len(g.doors) != 0 {
			t.Errorf("%s: after all have left there is %v", engine, g.doors)
		}
	}
}

// TestAttend: calls into a guest end when it is forgotten, and know why.
func TestAttend(t *testing.T) {
	g := newGuestStates(EngineNative)
	ctx, done := g.attend(t.Context(), "a", time.Now())
	other, otherDone := g.attend(t.Context(), "b", time.Now())
	g.forget("a")
	if !errors.Is(context.Cause(ctx), guestcontrol.ErrGone) || other.Err() != nil {
		t.Errorf("the calls ended with %v and %v", context.Cause(ctx), other.Err())
	}
	done()
	otherDone()
	if len(g.visits) != 0 {
		t.Errorf("there is still %v", g.visits)
	}
}

// TestOff: a machine that is off ends the calls into it, but not those that began
// after it was listed, and somebody else's stay.
func TestOff(t *testing.T) {
	g := newGuestStates(EngineNative)
	at := time.Now()
	before, end := g.attend(t.Context(), "a", at.Add(-time.Second))
	defer end()
	after, end := g.attend(t.Context(), "a", at)
	defer end()
	other, end := g.attend(t.Context(), "b", at.Add(-time.Second))
	defer end()
	on := map[types.UID]bool{"b": true}
	g.listed(on, at)
	if !errors.Is(context.Cause(before), guestcontrol.ErrGone) || after.Err() != nil || other.Err() != nil {
		t.Errorf("the calls ended with %v, %v and %v", context.Cause(before), after.Err(), other.Err())
	}
	g.listed(on, at.Add(time.Second))
	if !errors.Is(context.Cause(after), guestcontrol.ErrGone) {
		t.Errorf("a later listing, which shows it off, ended the other call with %v", context.Cause(after))
	}
}

// TestCloseIsBounded: a visit that does not end is not waited for without end.
func TestCloseIsBounded(t *testing.T) {
	g := newGuestStates(EngineDefault)
	ctx, done := g.attend(t.Context(), "a", time.Now())
	g.close(time.Millisecond)
	if ctx.Err() == nil {
		t.Error("a visit goes on after the end")
	}
	if late, done := g.attend(t.Context(), "b", time.Now()); late.Err() == nil {
		t.Error("a visit begins after the end")
	} else {
		done()
	}
	done()
	g.close(time.Hour)
}
