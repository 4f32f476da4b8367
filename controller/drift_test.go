package controller_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
)

// unheard is a provider whose events get lost.
type unheard struct{ providers.Provider }

// Events implements providers.Provider.
func (unheard) Events(ctx context.Context) <-chan providers.Event {
	none := make(chan providers.Event)
	context.AfterFunc(ctx, func() { close(none) })
	return none
}

// history collects what was ever said of a sandbox in its condition Drifted.
type history struct {
	mu   sync.Mutex
	said []string
}

// follow watches a sandbox until the test ends.
func (d *daemon) follow(t *testing.T, sbx *v1.Sandbox) *history {
	t.Helper()
	w, err := d.client.Watch(t.Context(), &v1.SandboxList{}, client.InNamespace(sbx.Namespace), client.MatchingFields{"metadata.name": sbx.Name})
	must(t, err)
	t.Cleanup(w.Stop)
	h := &history{}
	go func() {
		for e := range w.ResultChan() {
			s, ok := e.Object.(*v1.Sandbox)
			if !ok {
				continue
			}
			c := condition(s, v1.ConditionDrifted)
			text := ""
			if c.Status == metav1.ConditionTrue {
				text = c.Reason + ": " + c.Message
			}
			h.mu.Lock()
			if len(h.said) == 0 || h.said[len(h.said)-1] != text {
				h.said = append(h.said, text)
			}
			h.mu.Unlock()
		}
	}()
	return h
}

// all that was said so far.
func (h *history) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.said)
}

// told counts the times that a text with these words was said anew.
func (h *history) told(words ...string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, text := range h.said {
		if hasAll(text, words) {
			n++
		}
	}
	return n
}

func hasAll(text string, words []string) bool {
	return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
}

// events counts those about a sandbox that have a reason and these words.
func (d *daemon) events(sbx *v1.Sandbox, reason string, words ...string) int {
	d.t.Helper()
	var list corev1.EventList
	must(d.t, d.client.List(d.t.Context(), &list, client.InNamespace(sbx.Namespace)))
	n := 0
	for _, e := range list.Items {
		if e.InvolvedObject.UID == sbx.UID && e.Reason == reason && hasAll(e.Message, words) {
			n += max(1, int(e.Count))
		}
	}
	return n
}

// told waits for so many events about a sandbox that have a reason and these words:
// they are written behind the back of who records them.
func (d *daemon) told(sbx *v1.Sandbox, want int, reason string, words ...string) {
	d.t.Helper()
	d.eventually(fmt.Sprintf("%d events %s of %q", want, reason, words), func() error {
		if n := d.events(sbx, reason, words...); n != want {
			return fmt.Errorf("%d events", n)
		}
		return nil
	})
}

const driftMark = "/root/mark"

// tampered is a sandbox that the test has to itself.
type tampered struct {
	*daemon
	t   *testing.T
	sbx *v1.Sandbox
}

func (x tampered) mark() {
	x.t.Helper()
	must(x.t, x.provider().WriteFile(x.t.Context(), x.sbx.UID, driftMark, 0o600, strings.NewReader("kept")))
}

// read returns what is in a file of the guest; empty when there is none.
func (x tampered) read(path string) string {
	var out strings.Builder
	if _, err := x.provider().ReadFile(x.t.Context(), x.sbx.UID, path, &out); err != nil {
		return ""
	}
	return out.String()
}

func (x tampered) power(p v1.PowerState) {
	x.t.Helper()
	x.update(x.sbx, func(s *v1.Sandbox) { s.Spec.PowerState = p })
}

func (x tampered) until(what string, ok func(*v1.Sandbox) bool) {
	x.t.Helper()
	until(x.daemon, x.sbx, what, ok)
}

func undrifted(s *v1.Sandbox) bool { return condition(s, v1.ConditionDrifted).Type == "" }

// asWanted: nothing is left to do.
func asWanted(s *v1.Sandbox) bool {
	return ready(s) && undrifted(s) && condition(s, v1.ConditionStalled).Type == "" && s.Status.ObservedGeneration == s.Generation
}

func isOff(s *v1.Sandbox) bool {
	return undrifted(s) && condition(s, v1.ConditionPoweredOn).Reason == v1.ReasonStopped
}

// TestDrift plays what people do to machines by hand, and follows until each is put
// right: once with the hypervisor's events, and once without.
func TestDrift(t *testing.T) {
	for _, heard := range []bool{true, false} {
		t.Run(fmt.Sprintf("events heard %t", heard), func(t *testing.T) {
			d := host(t, fake.Options{})
			if !heard {
				d.wrap = func(p providers.Provider) providers.Provider { return unheard{p} }
				d.resync = 500 * time.Millisecond
			}
			d.start()
			d.create(goldenImage("golden"))
			t.Run("group", func(t *testing.T) {
				for name, c := range driftCases {
					t.Run(name, func(t *testing.T) {
						t.Parallel()
						c.run(t, d, strings.ReplaceAll(name, " ", "-"))
					})
				}
			})
			if left := d.leftovers(); slices.ContainsFunc(left, func(r providers.Resource) bool { return r.Kind != providers.ResourceImage }) {
				t.Errorf("left over: %+v", left)
			}
		})
	}
}

// driftCase is one thing that people do.
type driftCase struct {
	// begin brings a running machine to where it is changed; nil: it runs on.
	begin func(x tampered)
	play  func(x tampered) error
	// reason and words of what is told.
	reason string
	words  []string
	// mend is what people do about it; nil: nothing has to be done.
	mend func(x tampered)
	// end is how it ends; nil: running, and as it was.
	end   func(*v1.Sandbox) bool
	after func(x tampered)
}

func (c driftCase) run(t *testing.T, shared *daemon, name string) {
	d := *shared
	d.t = t
	x := tampered{&d, t, newSandbox(name, func(s *v1.Sandbox) {
		s.Spec.Network = v1.Network{Mode: v1.NetworkIntnet, Name: name}
	})}
	d.create(x.sbx)
	said := d.follow(t, x.sbx)
	x.until("ready", ready)
	x.mark()
	if c.begin != nil {
		c.begin(x)
	}
	must(t, c.play(x))
	d.eventually("told", func() error {
		if said.told(append(c.words, c.reason, "(seen at 20")...) == 0 {
			return fmt.Errorf("it was said: %q", said.all())
		}
		return nil
	})
	if c.mend != nil {
		c.mend(x)
	}
	end := c.end
	if end == nil {
		end = asWanted
	}
	x.until("put right", end)
	if c.after == nil {
		c.after = kept
	}
	c.after(x)
	for reason, words := range map[string][]string{"Drifted": c.words, "Repaired": c.words[:1]} {
		d.told(x.sbx, 1, reason, words...)
	}
	must(t, d.client.Delete(t.Context(), x.sbx))
	d.gone(x.sbx)
}

// kept: the disk has what was written to it.
func kept(x tampered) {
	x.t.Helper()
	if got := x.read(driftMark); got != "kept" {
		x.t.Errorf("the disk has %q", got)
	}
}

// ranOn: kept, and the machine was not started anew.
func ranOn(x tampered) {
	x.t.Helper()
	kept(x)
	if s := x.sbx.Status; s.Restarts != 0 || s.Repairs != 0 {
		x.t.Errorf("it was started again: %+v", s)
	}
}

// again stops and starts the sandbox, where it is ready until then.
func again(x tampered) {
	x.t.Helper()
	x.until("ready, and drifted", func(s *v1.Sandbox) bool { return ready(s) && !undrifted(s) })
	x.power(v1.PowerStopped)
	x.until("off", isOff)
	x.power(v1.PowerRunning)
}

func stopFirst(x tampered) {
	x.t.Helper()
	x.power(v1.PowerStopped)
	x.until("off", isOff)
}

// stalled demands that a sandbox says why it cannot go on.
func stalled(x tampered, reason string, words ...string) {
	x.t.Helper()
	x.until("stalled", func(s *v1.Sandbox) bool {
		c, r := condition(s, v1.ConditionStalled), condition(s, v1.ConditionReady)
		return c.Reason == reason && hasAll(c.Message, words) && r.Reason == reason && s.Status.Phase == v1.SandboxFailed &&
			condition(s, v1.ConditionDrifted).Reason == reason
	})
}

// usable: others changed something that only people can put right, and it runs.
func usable(x tampered, reason string) {
	x.t.Helper()
	x.until("told", func(s *v1.Sandbox) bool { return condition(s, v1.ConditionDrifted).Reason == reason })
	if !ready(x.sbx) || condition(x.sbx, v1.ConditionStalled).Type != "" {
		x.t.Errorf("it cannot be used: %s", show(x.sbx))
	}
	kept(x)
}

var driftCases = map[string]driftCase{
	"destroyed": {
		play:   func(x tampered) error { return x.world.Destroy(x.sbx.UID) },
		reason: v1.ReasonPowerChanged, words: []string{"forced the machine off"},
		after: func(x tampered) {
			kept(x)
			if x.sbx.Status.Restarts != 1 {
				x.t.Errorf("%d restarts", x.sbx.Status.Restarts)
			}
		},
	},
	"undefined": {
		play:   func(x tampered) error { return x.world.Undefine(x.sbx.UID) },
		reason: v1.ReasonMachineLost, words: []string{"no more, but still its disk"},
	},
	"undefined with its disk": {
		play: func(x tampered) error {
			return errors.Join(x.world.RemoveDiskFile(x.sbx.UID), x.world.Undefine(x.sbx.UID))
		},
		reason: v1.ReasonMachineLost, words: []string{"no more, nor its disk"},
		after: func(x tampered) {
			if got := x.read(driftMark); got != "" {
				x.t.Errorf("the new disk has %q", got)
			}
		},
	},
	"paused": {
		play:   func(x tampered) error { return x.world.Pause(x.sbx.UID) },
		reason: v1.ReasonPowerChanged, words: []string{"was paused"},
	},
	"started": {
		begin:  stopFirst,
		play:   func(x tampered) error { return x.world.StartByHand(x.sbx.UID) },
		reason: v1.ReasonPowerChanged, words: []string{"started the machine", "put back to Stopped"},
		end: isOff, after: func(tampered) {},
	},
	"resumed": {
		begin: func(x tampered) {
			x.power(v1.PowerSuspended)
			x.until("suspended", because(v1.ConditionReady, v1.ReasonSuspended))
		},
		play:   func(x tampered) error { return x.world.StartByHand(x.sbx.UID) },
		reason: v1.ReasonPowerChanged, words: []string{"started the machine", "put back to Suspended"},
		end: func(s *v1.Sandbox) bool {
			return undrifted(s) && condition(s, v1.ConditionReady).Reason == v1.ReasonSuspended
		},
		after: func(tampered) {},
	},
	"memory of what runs": {
		play:   func(x tampered) error { return x.world.EditMemory(x.sbx.UID, 64<<20) },
		reason: v1.ReasonDefinitionChanged, words: []string{"its memory is 64 MiB, and was made as 256 MiB", "stop and start the sandbox"},
		mend: again, after: madeAsSpecified,
	},
	"memory of what is off": {
		begin:  stopFirst,
		play:   func(x tampered) error { return x.world.EditMemory(x.sbx.UID, 64<<20) },
		reason: v1.ReasonDefinitionChanged, words: []string{"its memory is 64 MiB, and was made as 256 MiB", "being put back"},
		mend: func(x tampered) {
			x.until("put back while off", isOff)
			x.power(v1.PowerRunning)
		},
		after: madeAsSpecified,
	},
	"network card moved": {
		play:   func(x tampered) error { return x.world.MoveCard(x.sbx.UID, "eth0") },
		reason: v1.ReasonNetworkChanged, words: []string{`its network card is connected to "eth0"`, "powered off to be put back"},
		after: func(x tampered) {
			kept(x)
			if s := x.sbx.Status; s.Restarts != 0 || s.Repairs != 1 || s.RepairedAt == nil ||
				condition(x.sbx, v1.ConditionNetworkIsolated).Status != metav1.ConditionTrue {
				x.t.Errorf("put right, it is %+v", s)
			}
		},
	},
	"network deleted": {
		play:   func(x tampered) error { return x.world.RemoveNetworkOf(x.sbx.UID) },
		reason: v1.ReasonNetworkChanged, words: []string{"the network that it is to be connected to is gone"},
		after: ranOn,
	},
	"network deleted of what is off": {
		begin:  stopFirst,
		play:   func(x tampered) error { return x.world.RemoveNetworkOf(x.sbx.UID) },
		reason: v1.ReasonNetworkChanged, words: []string{"the network that it is to be connected to is gone"},
		mend: func(x tampered) {
			x.until("put back while off", isOff)
			x.power(v1.PowerRunning)
		},
	},
	"disk swapped": {
		play:   func(x tampered) error { return x.world.SwapDisk(x.sbx.UID, "/tmp/mine") },
		reason: v1.ReasonDiskChanged, words: []string{`its disk is defined to be "/tmp/mine"`},
		mend: again,
	},
	"disk file removed and put back": {
		play:   func(x tampered) error { return x.world.RemoveDiskFile(x.sbx.UID) },
		reason: v1.ReasonDiskLost, words: []string{"the file of its disk is gone", "what the guest has written is lost", "copy out"},
		mend: func(x tampered) {
			usable(x, v1.ReasonDiskLost)
			x.power(v1.PowerStopped)
			stalled(x, v1.ReasonDiskLost, "the file of its disk is gone", "put the file back", "sandboxd revert", " golden -n default")
			must(x.t, x.world.RestoreDiskFile(x.sbx.UID))
			x.until("off and sound", func(s *v1.Sandbox) bool { return isOff(s) && condition(s, v1.ConditionStalled).Type == "" })
			x.power(v1.PowerRunning)
		},
		after: func(x tampered) {
			kept(x)
			x.told(x.sbx, 2, "Drifted") // that it is lost, and that it was lost
		},
	},
	"disk file removed and reverted": {
		begin:  stopFirst,
		play:   func(x tampered) error { return x.world.RemoveDiskFile(x.sbx.UID) },
		reason: v1.ReasonDiskLost, words: []string{"the file of its disk is gone", "sandboxd revert", " golden -n default"},
		mend: func(x tampered) {
			x.power(v1.PowerRunning)
			stalled(x, v1.ReasonDiskLost)
			x.update(x.sbx, func(s *v1.Sandbox) { s.Spec.RevertTo = &v1.RevertTo{Snapshot: v1.SnapshotGolden, Request: "1"} })
		},
		after: func(x tampered) {
			if got := x.read(driftMark); got != "" {
				x.t.Errorf("the fresh disk has %q", got)
			}
		},
	},
	"renamed": {
		play:   func(x tampered) error { return x.world.Rename(x.sbx.UID, "mine") },
		reason: v1.ReasonDefinitionChanged, words: []string{`its name is "mine"`},
		after: ranOn,
	},
	"snapshotted": {
		play:   func(x tampered) error { return x.world.TakeSnapshotByHand(x.sbx.UID) },
		reason: v1.ReasonForeignSnapshots, words: []string{"it has snapshots that were taken by hand: 1", "delete them on the hypervisor"},
		mend: func(x tampered) {
			usable(x, v1.ReasonForeignSnapshots)
			x.power(v1.PowerStopped)
			stalled(x, v1.ReasonForeignSnapshots, "delete them on the hypervisor")
			must(x.t, x.world.DeleteSnapshotsByHand(x.sbx.UID))
			x.until("off and sound", func(s *v1.Sandbox) bool { return isOff(s) && condition(s, v1.ConditionStalled).Type == "" })
			x.power(v1.PowerRunning)
		},
	},
}

// madeAsSpecified looks from inside at what the machine is made of.
func madeAsSpecified(x tampered) {
	x.t.Helper()
	kept(x)
	if got := x.read("/proc/meminfo"); !strings.Contains(got, fmt.Sprint(256<<10)) {
		x.t.Errorf("the guest has %q", got)
	}
}

// TestDriftAgainAndAgain: whoever moves a network card each time it was put back has
// the machine wait ever longer, and not us spin.
func TestDriftAgainAndAgain(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	sbx := newSandbox("web", func(s *v1.Sandbox) { s.Spec.Network = v1.Network{Mode: v1.NetworkIntnet} })
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "ready", ready)
	must(t, d.world.MoveCard(sbx.UID, "eth0"))
	until(d, sbx, "put right once", func(s *v1.Sandbox) bool { return asWanted(s) && s.Status.Repairs == 1 })
	must(t, d.world.MoveCard(sbx.UID, "eth0"))
	until(d, sbx, "waiting", func(s *v1.Sandbox) bool {
		c := condition(s, v1.ConditionReady)
		return s.Status.Repairs == 2 && strings.Contains(c.Message, "2 times in a row") && condition(s, v1.ConditionDrifted).Reason == v1.ReasonNetworkChanged
	})
	m, err := d.provider().GetMachine(t.Context(), sbx.UID)
	must(t, err)
	if m.Power != providers.PowerOff || len(m.Drift) > 0 {
		t.Errorf("meanwhile the machine is %+v", m)
	}
	if testing.Short() || raced {
		return
	}
	until(d, sbx, "put right twice", asWanted)
	if waited := time.Since(sbx.Status.RepairedAt.Time); waited < 9*time.Second {
		t.Errorf("it waited for %s only", waited)
	}
}

// TestDriftIsToldOnce: while it lasts, one change is one event, whatever else is
// reconciled, and also over a new daemon.
func TestDriftIsToldOnce(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	sbx := newSandbox("web")
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "ready", ready)
	must(t, d.world.EditMemory(sbx.UID, 64<<20))
	until(d, sbx, "told", because(v1.ConditionDrifted, v1.ReasonDefinitionChanged))
	since := condition(sbx, v1.ConditionDrifted)
	d.told(sbx, 1, "Drifted") // one that is still to be written would go with the daemon
	for i := range 3 {
		d.update(sbx, func(s *v1.Sandbox) {
			s.Spec.CloudInit.SSHAuthorizedKeys = []string{fmt.Sprintf("ssh-ed25519 AAAA k%d", i)}
		})
		until(d, sbx, "reconciled", func(s *v1.Sandbox) bool { return s.Status.ObservedGeneration == s.Generation && ready(s) })
	}
	d.stop()
	d.start()
	until(d, sbx, "ready again", ready)
	if c := condition(sbx, v1.ConditionDrifted); c.Message != since.Message || !c.LastTransitionTime.Equal(&since.LastTransitionTime) {
		t.Errorf("it was told as %+v, and now is as %+v", since, c)
	}
	if n := d.events(sbx, "Drifted"); n != 1 {
		t.Errorf("%d events", n)
	}
}
