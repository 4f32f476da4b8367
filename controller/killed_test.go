package controller_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/providers/fault"
)

// TestKilledAnywhere kills the daemon at calls of a provider all over a life with a
// snapshot, a revert and a fork, and demands of the next one that it converges: with
// the data that is to be there, without a restart that was none, and with nothing
// left in the end.
func TestKilledAnywhere(t *testing.T) {
	count := fault.NewDeath(0)
	killedLife(t, count)
	points := count.Points()
	if points < 20 {
		t.Fatalf("only %d points", points)
	}
	step := int64(3) // which meets each kind of call
	if testing.Short() || raced {
		step = 11
	}
	for n := int64(1); n <= points; n += step {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			killedLife(t, fault.NewDeath(n))
		})
	}
}

func killedLife(t *testing.T, death *fault.Death) {
	d := host(t, fake.Options{})
	d.wrap = func(p providers.Provider) providers.Provider { return fault.Wrap(p, death.Hook) }
	d.start()
	// Dying lasts until the daemon is stopped; the next one lives.
	revive := func() {
		d.wrap = nil
		d.stop()
		d.start()
	}
	var dead bool
	settle := func(what string, ok func() error) {
		t.Helper()
		for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			err := ok()
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("never %s: %v", what, err)
			}
			select {
			case <-death.Died():
				if !dead {
					dead = true
					revive()
				}
			default:
			}
		}
	}
	img, src, snap, child := goldenImage("golden"), newSandbox("src"), newSnapshot("s", "src", true), fork("child", "s")
	become := func(o client.Object, ok func() bool) {
		t.Helper()
		settle(o.GetName()+" as wanted", func() error {
			if err := d.client.Get(context.Background(), client.ObjectKeyFromObject(o), o); err != nil {
				return err
			}
			if !ok() {
				return errors.New(show(o))
			}
			return nil
		})
	}
	d.create(img, src)
	become(src, func() bool { return ready(src) })
	outside := func(f func(id types.UID, p providers.Provider) error) { must(t, f(src.UID, d.provider())) }
	outside(func(id types.UID, p providers.Provider) error {
		return p.WriteFile(context.Background(), id, "/root/mark", 0o600, strings.NewReader("kept"))
	})
	d.create(snap)
	become(snap, func() bool { return ready(snap) })
	become(src, func() bool { return ready(src) })
	outside(func(id types.UID, p providers.Provider) error {
		return p.WriteFile(context.Background(), id, "/root/mark", 0o600, strings.NewReader("lost"))
	})
	d.update(src, func(s *v1.Sandbox) { s.Spec.RevertTo = &v1.RevertTo{Snapshot: "s", Request: "1"} })
	d.create(child)
	become(src, func() bool { return ready(src) && src.Status.Revert != nil })
	become(child, func() bool { return ready(child) })
	for _, s := range []*v1.Sandbox{src, child} {
		if got := d.file(s, "/root/mark"); got != "kept" || s.Status.Restarts != 0 {
			t.Errorf("%s: mark %q, %d restarts", s.Name, got, s.Status.Restarts)
		}
	}
	d.remove(snap, src, child, img)
	for _, o := range []client.Object{snap, src, child, img} {
		settle(o.GetName()+" gone", func() error {
			err := d.client.Get(context.Background(), client.ObjectKeyFromObject(o), o)
			if err == nil {
				return errors.New(show(o))
			}
			return client.IgnoreNotFound(err)
		})
	}
	if left := d.leftovers(); len(left) != 0 {
		t.Errorf("left over: %+v", left)
	}
}
