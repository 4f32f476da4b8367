package sandbox

import (
	"context"
	"errors"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// TestUnfitBeforeRevert: a guest that must not be on as it is connected is ended before
// anything that may have to wait, such as a revert for which there is no room.
func TestUnfitBeforeRevert(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	want := providers.Hashes{Network: "wanted"}
	opened := []providers.Drift{{Remedy: providers.RemedyPowerOff}}
	isolated := providers.NetworkObservation{Isolated: true}
	for _, tt := range []struct {
		name    string
		machine providers.Machine
		why     string
	}{
		{"another network", providers.Machine{Power: providers.PowerRunning, Network: isolated}, whyNetwork},
		{"another network, paused", providers.Machine{Power: providers.PowerPaused}, whyNetwork},
		{"changed by others", providers.Machine{Power: providers.PowerRunning, Hashes: want, Network: isolated, Drift: opened}, whyDrift},
		{"not isolated", providers.Machine{Power: providers.PowerRunning, Hashes: want}, whyUnisolated},
	} {
		for _, to := range []string{v1.SnapshotGolden, "before"} {
			d := desired{Power: v1.PowerRunning, Hashes: want, Revert: &v1.RevertTo{Snapshot: to, Request: "1"}, Known: true}
			got := next(d, observed{Machine: &tt.machine, UnisolatedSince: now.Add(-time.Hour)}, now)
			if got.action != actStopForce || got.why != tt.why {
				t.Errorf("%s, to be reverted to %s: %+v, want it ended because of %s", tt.name, to, got, tt.why)
			}
		}
	}
}

// TestClockSetBackAfterRepair: the pause after a repair does not last until the clock is
// where it was.
func TestClockSetBackAfterRepair(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ahead := metav1.NewTime(now.Add(24 * time.Hour))
	st := v1.SandboxStatus{Repairs: 1, RepairedAt: &ahead}
	setBack(&st, now)
	if s := afterRepair(observed{RepairedAt: st.RepairedAt.Time, Repairs: st.Repairs}, now); s.action != actStart {
		t.Errorf("it waits: %+v", s)
	}
}

// TestPausedForSpace: a guest that the host has no space for was paused by nobody.
func TestPausedForSpace(t *testing.T) {
	started := metav1.Now()
	for why, told := range map[providers.PauseReason]bool{"": true, providers.PausedNoSpace: false} {
		v := &view{
			sbx:     &v1.Sandbox{Status: v1.SandboxStatus{StartedAt: &started}},
			machine: &providers.Machine{Power: providers.PowerPaused, Paused: why},
			desired: desired{Power: v1.PowerRunning},
		}
		if got := drifted(v).what != ""; got != told {
			t.Errorf("paused for %q: told of others %v, want %v", why, got, told)
		}
	}
}

// TestIsolationLostAnew: patience with a guest whose isolation is not seen any more counts
// from then, also where the hypervisor could not enforce all of it before.
func TestIsolationLostAnew(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	v := view{now: now, sbx: &v1.Sandbox{}, machine: &providers.Machine{Power: providers.PowerRunning}}
	list := &v.sbx.Status.Conditions
	meta.SetStatusCondition(list, metav1.Condition{
		Type: v1.ConditionNetworkIsolated, Status: metav1.ConditionFalse, Reason: v1.ReasonNotEnforceable,
		LastTransitionTime: metav1.NewTime(now.Add(-time.Hour)),
	})
	set := func(at time.Time) func(metav1.Condition) {
		return func(c metav1.Condition) {
			c.LastTransitionTime = metav1.NewTime(at)
			meta.SetStatusCondition(list, c)
		}
	}
	setNetwork(v, set(now))
	setNetwork(v, set(now.Add(time.Second)))
	if since := unisolatedSince(&v.sbx.Status); !since.Equal(now) {
		t.Errorf("not isolated since %v, want since %v", since, now)
	}
}

// powered is a machine that runs until it is forced off.
type powered struct {
	providers.Provider
	off bool
}

func (p *powered) Stop(context.Context, types.UID, providers.StopMode) error {
	p.off = true
	return nil
}

// TestEndedOnAFullStore: a guest that must not be on is ended although nothing can be
// written down, and that is tried again.
func TestEndedOnAFullStore(t *testing.T) {
	full := apierrors.NewGenericServerResponse(507, "patch", schema.GroupResource{}, "box", "no space", 0, false)
	for why, off := range map[string]bool{whyDrift: true, whyUnisolated: true, whyNetwork: true, "": false} {
		scheme := runtime.NewScheme()
		must(t, v1.AddToScheme(scheme))
		started := metav1.Now()
		sbx := &v1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "box", UID: "u"}, Status: v1.SandboxStatus{StartedAt: &started}}
		c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(sbx).WithInterceptorFuncs(interceptor.Funcs{
			SubResourcePatch: func(context.Context, client.Client, string, client.Object, client.Patch, ...client.SubResourcePatchOption) error {
				return full
			},
		}).Build()
		r, p := New(Options{Client: c, Recorder: events.NewFakeRecorder(10)}), &powered{}
		v := &view{
			sbx: sbx, before: sbx.DeepCopy(), machine: &providers.Machine{Power: providers.PowerRunning},
			last: step{action: actStopForce, why: why},
		}
		if err := r.act(t.Context(), p, v, providers.MachineSpec{}); !errors.Is(err, full) {
			t.Errorf("because of %q: got %v, want to be told of the full store", why, err)
		}
		if p.off != off {
			t.Errorf("because of %q: ended %v, want %v", why, p.off, off)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
