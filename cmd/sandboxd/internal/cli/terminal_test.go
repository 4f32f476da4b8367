package cli

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/term"

	"sandboxd.dev/sandboxd/test/terminal"
)

// TestTakeTerminal: a terminal whose keys go nowhere is left as it is, or nobody could
// end what is run at it.
func TestTakeTerminal(t *testing.T) {
	_, screen := terminal.Open(t, 80, 25)
	state := func() term.State {
		t.Helper()
		s, err := term.GetState(int(screen.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		return *s
	}
	before := state()
	var said bytes.Buffer
	a := &app{Streams: Streams{In: screen, Err: &said}}
	_, _, ok, err := a.takeTerminal(false)
	if ok || err != nil || !strings.Contains(said.String(), "-t is left out") || !reflect.DeepEqual(before, state()) {
		t.Errorf("without -i: taken %v, %v, said %q, changed %v", ok, err, &said, !reflect.DeepEqual(before, state()))
	}
	said.Reset()
	sizes, restore, ok, err := a.takeTerminal(true)
	if !ok || err != nil || said.Len() > 0 {
		t.Fatalf("with -i: taken %v, %v, said %q", ok, err, &said)
	}
	if reflect.DeepEqual(before, state()) {
		t.Error("with -i, keys are not passed on as they are typed")
	}
	if size := <-sizes; size.Width != 80 || size.Height != 25 {
		t.Errorf("its size is told as %v", size)
	}
	restore()
	if !reflect.DeepEqual(before, state()) {
		t.Error("it is not as it was before")
	}
}
