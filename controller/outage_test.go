package controller_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fault"
)

// load is what a daemon makes other work of.
type load struct{ calls, writes, lines atomic.Int64 }

type sample struct{ calls, writes, lines int64 }

func (l *load) take() sample { return sample{l.calls.Swap(0), l.writes.Swap(0), l.lines.Swap(0)} }

func (l *load) logger() logr.Logger {
	return funcr.New(func(_, _ string) { l.lines.Add(1) }, funcr.Options{})
}

// counted counts the writes to the API.
type counted struct {
	http.RoundTripper
	load *load
}

func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet {
		c.load.writes.Add(1)
	}
	return c.RoundTripper.RoundTrip(r)
}

// TestOutage takes the hypervisor away from a thousand sandboxes for a minute.
func TestOutage(t *testing.T) {
	many := 1000
	if testing.Short() || raced {
		many = 200
	}
	synctest.Test(t, func(t *testing.T) { outage(t, many) })
}

func outage(t *testing.T, many int) {
	l := &load{}
	d := simulated(t, func(_ context.Context, at fault.Point) error {
		if at.When == fault.Before {
			l.calls.Add(1)
		}
		return nil
	})
	d.resync, d.log = time.Minute, l.logger()
	d.api = func(c *rest.Config) { c.Wrap(func(rt http.RoundTripper) http.RoundTripper { return counted{rt, l} }) }
	d.start()
	defer d.stop()
	d.create(goldenImage("golden"))
	for i := range many {
		d.create(newSandbox(fmt.Sprintf("s%d", i)))
	}
	count := func() (ready, unknown, events int) {
		var list v1.SandboxList
		must(t, d.client.List(t.Context(), &list))
		for i := range list.Items {
			switch c := condition(&list.Items[i], v1.ConditionReady); {
			case c.Status == metav1.ConditionTrue:
				ready++
			case c.Status == metav1.ConditionUnknown && c.Reason == v1.ReasonUnavailable &&
				strings.Contains(c.Message, "has not answered since") &&
				condition(&list.Items[i], v1.ConditionNetworkIsolated).Status == metav1.ConditionUnknown:
				unknown++
			default:
				t.Logf("%s: %+v", list.Items[i].Name, c)
			}
		}
		var all eventsv1.EventList
		must(t, d.client.List(t.Context(), &all))
		return ready, unknown, len(all.Items)
	}
	time.Sleep(5 * time.Minute)
	ready, _, before := count()
	if ready != many {
		t.Fatalf("only %d are ready before the outage", ready)
	}
	l.take()
	time.Sleep(time.Minute)
	print := func(what string, s sample) {
		fmt.Printf("outage of %d sandboxes: %-28s %5d provider calls, %5d API writes, %4d log lines\n", many, what, s.calls, s.writes, s.lines)
	}
	print("a quiet minute before", l.take())

	d.world.LoseHypervisor()
	time.Sleep(10 * time.Second)
	began := l.take()
	print("its first 10 s", began)
	if _, unknown, _ := count(); unknown != many {
		t.Errorf("%d say that nobody knows, want all", unknown)
	}
	time.Sleep(50 * time.Second)
	goes := l.take()
	print("the other 50 s", goes)
	_, _, after := count()
	d.world.RestoreHypervisor()
	back := time.Now()
	for ready, _, _ = count(); ready != many && time.Since(back) < 10*time.Minute; ready, _, _ = count() {
		time.Sleep(100 * time.Millisecond)
	}
	took := time.Since(back)
	time.Sleep(30*time.Second - took%time.Second)
	ended := l.take()
	print("30 s after it", ended)
	fmt.Printf("outage of %d sandboxes: all are ready again after %v; %d new events\n", many, took, after-before)

	n := int64(many)
	if took > time.Minute {
		t.Errorf("it took %v until all were ready again", took)
	}
	if began.calls+goes.calls > 60 { // a handful a second would be 300
		t.Errorf("%d provider calls were made", began.calls+goes.calls)
	}
	if began.writes > n+n/10 || goes.writes > n/10 || ended.writes > n+n/10 {
		t.Errorf("more than one write for each sandbox at the beginning, and at the end")
	}
	if began.lines+goes.lines+ended.lines > 10 {
		t.Errorf("one outage is %d lines of the log", began.lines+goes.lines+ended.lines)
	}
	if after-before > 10 {
		t.Errorf("one outage is %d events", after-before)
	}
}

// TestShortOutage restarts a hypervisor, of which nobody need be told.
func TestShortOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		d := simulated(t, func(_ context.Context, at fault.Point) error {
			if down.Load() {
				return providers.Errorf(providers.ErrDown, "hypervisor", "it is being restarted")
			}
			return nil
		})
		d.start()
		defer d.stop()
		sbx, late := newSandbox("web"), newSandbox("late")
		d.create(goldenImage("golden"), sbx)
		until(d, sbx, "ready", ready)
		time.Sleep(time.Minute)
		must(t, d.client.Get(t.Context(), client.ObjectKeyFromObject(sbx), sbx))
		version := sbx.ResourceVersion
		down.Store(true)
		d.create(late) // which notices
		time.Sleep(2 * time.Second)
		must(t, d.client.Get(t.Context(), client.ObjectKeyFromObject(late), late))
		if c := condition(late, v1.ConditionReady); c.Reason != v1.ReasonUnavailable || c.Status != metav1.ConditionUnknown {
			t.Errorf("made in the outage: %+v", c)
		}
		down.Store(false)
		until(d, late, "ready", ready)
		time.Sleep(time.Minute)
		must(t, d.client.Get(t.Context(), client.ObjectKeyFromObject(sbx), sbx))
		if sbx.ResourceVersion != version {
			t.Errorf("the other one was written: %s", show(sbx))
		}
	})
}

// TestOutageWithoutEvents has a provider that forgets to tell that it is back.
func TestOutageWithoutEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := simulated(t)
		d.resync = time.Minute
		d.wrap = func(p providers.Provider) providers.Provider { return silent{p} }
		d.start()
		defer d.stop()
		sbx := newSandbox("web")
		d.create(goldenImage("golden"), sbx)
		time.Sleep(2 * time.Minute)
		until(d, sbx, "ready", ready)
		d.world.LoseHypervisor()
		d.update(sbx, func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerStopped })
		time.Sleep(10 * time.Minute)
		d.world.RestoreHypervisor()
		time.Sleep(20 * time.Second)
		must(t, d.client.Get(t.Context(), client.ObjectKeyFromObject(sbx), sbx))
		if c := condition(sbx, v1.ConditionReady); c.Reason == v1.ReasonUnavailable {
			t.Errorf("it is not looked at: %+v", c)
		}
	})
}

type silent struct{ providers.Provider }

func (silent) Events(context.Context) <-chan providers.Event {
	none := make(chan providers.Event)
	close(none)
	return none
}

// TestJobsOfAnOutage has work under way when the hypervisor goes away, and ended for it
// when it is back: what was lost is begun again soon, and not at the next resync.
func TestJobsOfAnOutage(t *testing.T) {
	for _, verb := range []string{"ImportImage", "TakeSnapshot", "DeleteSnapshot"} {
		t.Run(verb, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var down, begun atomic.Bool
				d := simulated(t, func(_ context.Context, at fault.Point) error {
					if at.Verb == verb && at.When == fault.Before && !begun.Load() {
						begun.Store(true)
						time.Sleep(time.Second)
						down.Store(true)
					}
					if down.Load() {
						return providers.Errorf(providers.ErrDown, "hypervisor", "it is being restarted")
					}
					return nil
				})
				d.start()
				defer d.stop()
				img, sbx, snap := goldenImage("golden"), newSandbox("web"), newSnapshot("s", "web", false)
				d.create(img, sbx)
				if verb != "ImportImage" {
					until(d, sbx, "ready", ready)
					d.create(snap)
				}
				if verb == "DeleteSnapshot" {
					until(d, snap, "ready", ready)
					d.remove(snap)
				}
				time.Sleep(20 * time.Second)
				if !down.Load() {
					t.Fatal("nothing was under way")
				}
				down.Store(false)
				time.Sleep(time.Minute)
				err := d.client.Get(t.Context(), client.ObjectKeyFromObject(snap), snap)
				must(t, d.client.Get(t.Context(), client.ObjectKeyFromObject(sbx), sbx))
				switch {
				case !ready(sbx):
					t.Errorf("the sandbox is not ready a minute later: %s", show(sbx))
				case verb == "TakeSnapshot" && (err != nil || !ready(snap)):
					t.Errorf("it is not taken a minute later: %v, %s", err, show(snap))
				case verb == "DeleteSnapshot" && err == nil:
					t.Errorf("it is not gone a minute later: %s", show(snap))
				}
			})
		})
	}
}
