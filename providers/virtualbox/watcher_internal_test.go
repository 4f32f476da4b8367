package virtualbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

func TestWatcher(t *testing.T) {
	w, now := newWatcher(), time.Now()
	awaits := func() bool { return len(w.awaited) > 0 }
	const a, b = types.UID("a"), types.UID("b")
	on := map[types.UID]bool{a: true}
	if w.await(on, []types.UID{a, b}, now, time.Time{}); !awaits() {
		t.Error("a machine that is on is not awaited")
	}
	if w.await(on, nil, now.Add(awaitFor+1), time.Time{}); awaits() {
		t.Error("a machine is awaited for ever, or one that is off")
	}
	w.await(on, []types.UID{a}, now, time.Time{})
	w.seen(machine{id: a})
	w.seen(machine{id: a})
	if got := w.takeNews(); len(got) != 1 || got[0].machine.id != a || !got[0].up || len(w.takeNews()) > 0 {
		t.Errorf("an agent that came up is news once, not %v", got)
	}
	if w.await(on, []types.UID{a}, now, time.Time{}); awaits() {
		t.Error("an agent that is up is awaited")
	}
	w.await(nil, nil, now, time.Time{}) // it went off
	if w.await(on, []types.UID{a}, now, time.Time{}); !awaits() {
		t.Error("after a new start the agent is not awaited")
	}
	w.poke(a)
	w.poke(b)
	if got := w.takePoked(); len(got) != 2 || len(w.takePoked()) > 0 {
		t.Errorf("poked: %v", got)
	}
}

// TestWatcherLooks: an awaited machine is looked at when its guest has spoken, by
// one at a time and not without a pause, and now and then else.
func TestWatcherLooks(t *testing.T) {
	w, now := newWatcher(), time.Now()
	const id = types.UID("a")
	due := func(after time.Duration, spoke bool) *awaited {
		t.Helper()
		list := w.due(now.Add(after), map[types.UID]bool{id: spoke})
		if len(list) == 0 {
			return nil
		}
		return list[0]
	}
	on := map[types.UID]bool{id: true}
	w.await(on, []types.UID{id}, now, time.Time{})
	first := due(0, false)
	if first == nil {
		t.Fatal("it is not looked at")
	}
	if due(time.Hour, true) != nil {
		t.Error("it is looked at twice at once")
	}
	w.looked(first, machine{id: id}, false)
	if due(lookLogs/2, false) != nil {
		t.Error("it is looked at without a pause")
	}
	if due(lookLogs, false) != first {
		t.Error("that it spoke during the pause is forgotten")
	}
	w.looked(first, machine{id: id}, false)
	if due(3*lookLogs, false) != nil {
		t.Error("it is looked at again without a reason")
	}
	if due(lookLogs+lookOff, false) != first {
		t.Error("of one that does not speak nobody ever looks again")
	}
	w.looked(first, machine{id: id}, false)
	if due(lookLogs+2*lookOff, false) != nil || due(lookLogs+3*lookOff, false) != first {
		t.Error("at one that does not speak people do not look less and less")
	}
	w.poke(id) // it is started anew
	w.await(on, []types.UID{id}, now, now)
	if w.looked(first, machine{id: id}, true); len(w.takeNews()) > 0 || len(w.awaited) == 0 {
		t.Error("what was seen before a restart is taken for what is after it")
	}
	if due(lookLogs, false) != nil {
		t.Error("it is looked at again right after its start, which has done so")
	}
	again := due(lookLogs, true)
	if again == nil {
		t.Fatal("it is not looked at after it spoke")
	}
	w.looked(again, machine{id: id}, true)
	if _, kept := w.take(id); !kept || len(w.takeNews()) != 1 || len(w.awaited) > 0 {
		t.Error("that it is up is not told, with what was seen")
	}
}

// TestWatcherChanges: what is seen of a machine while it is changed is no news, and
// nobody waits for its guest any more.
func TestWatcherChanges(t *testing.T) {
	w, now := newWatcher(), time.Now()
	const id = types.UID("a")
	w.await(map[types.UID]bool{id: true}, []types.UID{id}, now, time.Time{})
	look := w.due(now, nil)[0]
	ended := 0
	count := func() { ended++ }
	first := w.ends(id, count)
	second := w.ends(id, count)
	if first(); ended != 1 {
		t.Errorf("a second wait ends the first: %d", ended)
	}
	w.change(id)
	if ended != 2 {
		t.Errorf("a wait goes on while its machine is changed: %d", ended)
	}
	second()
	w.looked(look, machine{id: id}, true)
	if _, kept := w.take(id); kept || len(w.takeNews()) > 0 {
		t.Error("what was seen while it was changed is kept")
	}
	w.ends(id, count)
	if w.poke(id); ended != 3 {
		t.Errorf("a wait goes on after its machine was changed: %d", ended)
	}
	w.ends(id, count)
	if w.drop([]types.UID{id}, map[types.UID]bool{id: true}); ended != 3 {
		t.Error("a wait ends though its machine is on")
	}
	if w.drop([]types.UID{id}, nil); ended != 4 {
		t.Error("a wait goes on for a machine that is off")
	}
	ids := []types.UID{"1", "2", "3", "4"}
	on := map[types.UID]bool{"1": true, "2": true, "3": true, "4": true}
	w.await(on, ids, now, time.Time{})
	if n := len(w.due(now, nil)); n != maxLooks {
		t.Errorf("%d machines are looked at at once", n)
	}
}

func TestLogs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "VBox.log")
	write := func(how int, s string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|how, 0o600)
		if err == nil {
			_, err = f.WriteString(s)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	l, on := newLogs(), map[types.UID]bool{"a": true, "b": true}
	check := func(what string, wantTurned, wantSpoke bool) {
		t.Helper()
		turned, spoke := l.read(on, func(id types.UID) string {
			if id == "a" {
				return path
			}
			return "" // as of one that has gone meanwhile
		})
		if turned != wantTurned || spoke["a"] != wantSpoke || spoke["b"] {
			t.Errorf("%s: turned %v, spoke %v", what, turned, spoke)
		}
	}
	const changed, announced = "00:00:00.1 Console: Machine state changed to 'Running'\n", "00:00:06.7 VMMDev: Guest Additions information report: Version 6.0.0\n"
	check("no log yet", false, false)
	write(os.O_APPEND, changed)
	check("its start", true, false)
	check("nothing new", false, false)
	write(os.O_APPEND, "00:00:05.5 AHCI#0: Reset the HBA\n")
	check("before the Guest Additions", false, false)
	write(os.O_APPEND, announced)
	check("the Guest Additions", false, true)
	check("nothing new", false, false)
	write(os.O_APPEND, strings.Repeat("00:00:15.7 VMMDev: Guest Log: something\n", maxLogRead/30))
	check("what the guest says", false, true)
	write(os.O_APPEND, "00:00:15.9 VMMDev: Guest Log: Console: Machine state changed to 'PoweredOff'\n")
	check("what the guest pretends", false, true)
	write(os.O_APPEND, "00:00:19.1 Console: Machine state changed to 'PoweredOff'\n")
	check("its end", true, true)
	write(os.O_TRUNC, "00:00:00.0 another run\n")
	check("another run", false, false)
	if len(l.of) != 2 {
		t.Fatal(len(l.of))
	}
	on = map[types.UID]bool{}
	if check("all off", false, false); len(l.of) != 0 {
		t.Errorf("logs of machines that are off are kept: %v", l.of)
	}
	on = map[types.UID]bool{"a": true}
	write(os.O_APPEND, changed+announced)
	check("found running", false, true)
}
