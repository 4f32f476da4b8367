package controller_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
)

// TestNothingIsCollectedOnAnAnswerThatIsNotReliedOn: a machine whose object the API does
// not have stays for as long as the API is not believed, however often it says so.
func TestNothingIsCollectedOnAnAnswerThatIsNotReliedOn(t *testing.T) {
	d := host(t, fake.Options{})
	var believed atomic.Bool
	var asked atomic.Int32
	d.verify = func(_ context.Context, revisions ...string) error {
		if len(revisions) != 3 || slices.Contains(revisions, "") {
			t.Errorf("resource versions %q, want those of three lists", revisions)
		}
		asked.Add(1)
		if believed.Load() {
			return nil
		}
		return errors.New("not believed")
	}
	d.start()
	img := goldenImage("golden")
	d.create(img)
	until(d, img, "ready", ready[*v1.GoldenImage])
	must(t, d.client.Get(t.Context(), client.ObjectKeyFromObject(img), img))
	must(t, d.provider().EnsureMachine(t.Context(), providers.MachineSpec{
		ID: "22222222-2222-4222-8222-222222222222", Namespace: "default", Name: "unknown",
		Image: providers.ImageRef{UID: img.UID, Revision: img.Status.Revision},
		CPUs:  1, MemoryBytes: 64 << 20, Firmware: v1.FirmwareBIOS, Network: v1.Network{Mode: v1.NetworkNone},
		Seed: providers.Seed{Hostname: "unknown", User: "root"},
	}))
	there := func() bool {
		return slices.ContainsFunc(d.leftovers(), func(r providers.Resource) bool { return r.Kind == providers.ResourceMachine })
	}
	begun, from := time.Now(), asked.Load()
	d.eventually("asked often, and past the grace", func() error {
		if n := asked.Load() - from; n < 6 || time.Since(begun) < time.Second {
			return fmt.Errorf("%d times", n)
		}
		return nil
	})
	if !there() {
		t.Fatal("the machine was collected")
	}
	believed.Store(true)
	d.eventually("collected", func() error {
		if there() {
			return errors.New("the machine is there")
		}
		return nil
	})
}
