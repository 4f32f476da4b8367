package cli

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

func TestForkNames(t *testing.T) {
	for _, tt := range []struct {
		count    int
		numbered bool
		want     []string
	}{
		{1, false, []string{"try"}},
		{1, true, []string{"try-1"}},
		{3, true, []string{"try-1", "try-2", "try-3"}},
	} {
		if got := forkNames("try", tt.count, tt.numbered); !slices.Equal(got, tt.want) {
			t.Errorf("%d forks (numbered: %t): %q, want %q", tt.count, tt.numbered, got, tt.want)
		}
	}
}

func TestForkOf(t *testing.T) {
	ttl := &metav1.Duration{Duration: time.Hour}
	sbx := &v1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "web", UID: "u", Labels: map[string]string{"app": "x"}, ResourceVersion: "7"},
		Spec: v1.SandboxSpec{
			Image: "tiny", PowerState: v1.PowerStopped, CPUs: 2,
			Network:   v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{{Name: "a", HostPort: 80, GuestPort: 80}, {Name: "b", GuestPort: 53}}},
			CloudInit: v1.CloudInit{Hostname: "fixed", UserData: "#!/bin/sh\n"},
			Lifecycle: v1.Lifecycle{TTL: ttl},
			RevertTo:  &v1.RevertTo{Snapshot: "s", Request: "1"},
		},
		Status: v1.SandboxStatus{MachineID: "u"},
	}
	fork := forkOf(sbx, "try", "s")
	s := fork.Spec
	switch {
	case fork.Name != "try" || fork.Namespace != "team" || fork.UID != "" || fork.ResourceVersion != "" || fork.Status.MachineID != "":
		t.Errorf("identity: %+v", fork.ObjectMeta)
	case s.FromSnapshot != "s" || s.Image != "tiny" || s.CPUs != 2 || s.CloudInit.UserData == "" || s.Lifecycle.TTL.Duration != time.Hour || fork.Labels["app"] != "x":
		t.Errorf("what was to be kept: %+v", fork)
	case s.PowerState != v1.PowerRunning || s.RevertTo != nil || s.CloudInit.Hostname != "":
		t.Errorf("what was to be left out: %+v", s)
	case s.Network.PortForwards[0].HostPort != 0 || s.Network.PortForwards[0].GuestPort != 80:
		t.Errorf("port forwards: %+v", s.Network.PortForwards)
	case sbx.Spec.Network.PortForwards[0].HostPort != 80 || sbx.Spec.CloudInit.Hostname != "fixed":
		t.Errorf("the source was changed: %+v", sbx.Spec)
	}
}

func TestGoalReverted(t *testing.T) {
	sandbox := func(done, ready string, seen int64) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": v1.GroupVersion.String(), "kind": "Sandbox",
			"metadata": map[string]any{"generation": int64(2)},
			"status": map[string]any{
				"observedGeneration": seen, "revert": map[string]any{"snapshot": "s", "request": done},
				"conditions": []any{map[string]any{"type": "Ready", "status": ready, "message": "why"}},
			},
		}}
	}
	met := goalReverted("r2")
	for name, tt := range map[string]struct {
		u    *unstructured.Unstructured
		want bool
	}{
		"reverted":                          {sandbox("r2", "True", 2), true},
		"reverted, and not up yet":          {sandbox("r2", "False", 2), false},
		"ready as before":                   {sandbox("r1", "True", 2), false},
		"reverted, with an earlier verdict": {sandbox("r2", "True", 1), false},
	} {
		if got := met(tt.u); got.met != tt.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if s := met(nil); s.met || !s.stuck {
		t.Errorf("deleted: %+v", s)
	}
}

func TestRequestsDiffer(t *testing.T) {
	now := time.Now()
	if a, b := request(now), request(now); a == b || len(a) > 63 {
		t.Errorf("%q and %q", a, b)
	}
}
