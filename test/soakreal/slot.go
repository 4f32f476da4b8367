//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// slot works on one sandbox after the other, and on its snapshots and forks. It
// remembers what it asked for, to see at the end that it is so.
type slot struct {
	h      *host
	rand   *rand.Rand
	number int
	// generation of sandboxes of this slot: names are not used twice.
	generation int

	// name of the sandbox; empty when there is none.
	name  string
	spec  spec
	shots int
	// mark that was left in the disk last; empty when it is not known what is there.
	mark string
	// forgetful: the disk is put back, now or later, so that no mark can be relied on.
	forgetful bool
}

// spec is what varies of a sandbox.
type spec struct {
	network string
	power   string
	agent   bool
	rest    string
}

func newSlot(h *host, number int) *slot {
	return &slot{h: h, rand: rand.New(rand.NewPCG(h.o.seed, uint64(number))), number: number}
}

// work does one thing after the other until the context ends.
func (s *slot) work(ctx context.Context) {
	for ctx.Err() == nil {
		what, do := s.choose()
		err := do(ctx)
		if ctx.Err() != nil && err != nil {
			s.unknown() // cut off: nobody knows what came of it
			return
		}
		s.h.count.add(what, err)
		if !pause(ctx, time.Duration(s.rand.IntN(1500))*time.Millisecond) {
			return
		}
	}
}

// unknown forgets what can not be relied on any more.
func (s *slot) unknown() { s.mark = "" }

type deed func(ctx context.Context) error

// choose what to do next.
func (s *slot) choose() (string, deed) {
	if s.name == "" {
		return "create", s.create
	}
	deeds := []struct {
		weight int
		what   string
		do     deed
	}{
		{6, "await ready", s.ready},
		{8, "exec", s.exec},
		{6, "leave a mark", s.leave},
		{2, "stop", s.to("Stopped")},
		{5, "start", s.to("Running")},
		{2, "suspend", s.to("Suspended")},
		{2, "change the network", s.rewire},
		{3, "snapshot", s.snapshot},
		{2, "revert", s.revert},
		{2, "fork", s.fork},
		{1, "delete a snapshot", s.forget},
		{3, "delete", s.remove(true)},
		{1, "delete, do not wait", s.remove(false)},
	}
	total := 0
	for _, d := range deeds {
		total += d.weight
	}
	at := s.rand.IntN(total)
	for _, d := range deeds {
		if at -= d.weight; at < 0 {
			return d.what, d.do
		}
	}
	panic("the weights do not add up")
}

func (s *slot) apply(ctx context.Context) error {
	readiness := "none"
	if s.spec.agent {
		readiness = "agent"
	}
	return s.h.apply(ctx, fmt.Sprintf("apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: %s}\n"+
		"spec: {image: tiny, powerState: %s, network: {%s}, readiness: {mode: %s}%s}\n",
		s.name, s.spec.power, s.spec.network, readiness, s.spec.rest))
}

var networks = []string{
	"mode: none",
	"mode: intnet, name: a",
	"mode: intnet, name: b",
	"mode: hostonly, name: h",
	"mode: nat, portForwards: [{name: ssh, guestPort: 22}]",
}

func (s *slot) create(ctx context.Context) error {
	s.generation++
	s.name = fmt.Sprintf("s%d-%d", s.number, s.generation)
	s.spec = spec{
		network: networks[s.rand.IntN(len(networks))], power: "Running", agent: s.rand.IntN(3) > 0,
		rest: []string{"", "", "", ", discardOnStop: true", ", lifecycle: {ttl: 40s}", ", restartPolicy: OnFailure"}[s.rand.IntN(6)],
	}
	s.mark, s.shots = "", 0
	s.forgetful = strings.Contains(s.spec.rest, "discardOnStop")
	return s.apply(ctx)
}

func (s *slot) to(power string) deed {
	return func(ctx context.Context) error {
		s.spec.power = power
		return s.apply(ctx)
	}
}

func (s *slot) rewire(ctx context.Context) error {
	s.spec.network = networks[s.rand.IntN(len(networks))]
	return s.apply(ctx)
}

// ready waits a while; whether it comes to be is looked at in the end.
func (s *slot) ready(ctx context.Context) error {
	if s.spec.power != "Running" {
		return nil
	}
	_, err := s.h.run(ctx, "", "wait", "--for=condition=Ready", "sandbox/"+s.name, "--timeout", "45s")
	return err
}

func (s *slot) exec(ctx context.Context) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	out, err := s.h.run(ctx, "", "exec", "--timeout", "20s", s.name, "--", "hostname")
	if err == nil && strings.TrimSpace(out) == "" {
		err = errors.New("the guest has no name")
	}
	return err
}

// leave leaves a mark that a loss of power does not take away.
func (s *slot) leave(ctx context.Context) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	s.unknown()
	mark := fmt.Sprint(s.rand.Uint32())
	if _, err := s.h.run(ctx, mark, "exec", "-i", "--timeout", "20s", s.name, "--", "sh", "-c", "cat > /root/mark.new && sync && mv /root/mark.new /root/mark && sync"); err != nil {
		return err // it may have been written all the same
	}
	if !s.forgetful {
		s.mark = mark
	}
	return nil
}

func (s *slot) shot() string { return fmt.Sprintf("%s-shot%d", s.name, s.shots) }

func (s *slot) snapshot(ctx context.Context) error {
	s.shots++
	return s.h.apply(ctx, fmt.Sprintf("apiVersion: sandboxd.dev/v1\nkind: SandboxSnapshot\nmetadata: {name: %s}\nspec: {sandbox: %s, memory: %v}\n",
		s.shot(), s.name, s.rand.IntN(2) == 0))
}

// revert goes back to the last snapshot, or to the beginning.
func (s *slot) revert(ctx context.Context) error {
	s.unknown()
	s.forgetful = true // it may be carried out later
	to := "golden"
	if s.shots > 0 && s.rand.IntN(3) > 0 {
		to = s.shot()
	}
	_, err := s.h.run(ctx, "", "revert", s.name, to, "--wait=false")
	return err
}

// fork makes a sandbox of the last snapshot that nobody waits for, and that ends by
// itself.
func (s *slot) fork(ctx context.Context) error {
	if s.shots == 0 {
		return s.snapshot(ctx)
	}
	s.generation++
	return s.h.apply(ctx, fmt.Sprintf("apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: s%d-%d}\n"+
		"spec: {image: tiny, fromSnapshot: %s, readiness: {mode: none}, lifecycle: {ttl: 20s}}\n", s.number, s.generation, s.shot()))
}

func (s *slot) forget(ctx context.Context) error {
	if s.shots == 0 {
		return nil
	}
	_, err := s.h.run(ctx, "", "delete", "sandboxsnapshot", s.shot(), "--wait=false", "--ignore-not-found")
	return err
}

func (s *slot) remove(wait bool) deed {
	return func(ctx context.Context) error {
		_, err := s.h.run(ctx, "", "delete", "sandbox", s.name, fmt.Sprintf("--wait=%v", wait), "--timeout", "1m", "--ignore-not-found")
		s.name = "" // if it was in vain, the end deletes it
		return err
	}
}

// settle asks once more for what is wanted, and sees that it comes to be.
func (s *slot) settle(ctx context.Context) error {
	if s.name == "" || strings.Contains(s.spec.rest, "ttl") { // its time may be up
		return nil
	}
	s.spec.power = "Running"
	object := "sandbox/" + s.name
	if err := s.h.await(ctx, "the daemon takes "+object, func() error { return s.apply(ctx) }); err != nil {
		return err
	}
	if err := s.h.await(ctx, object+" is ready", s.h.waitFor(object)); err != nil {
		why, _ := s.h.run(ctx, "", "describe", "sandbox", s.name)
		return fmt.Errorf("%w\n%s", err, why)
	}
	if s.mark == "" || !s.spec.agent {
		return nil
	}
	got, err := s.h.run(ctx, "", "exec", s.name, "--", "cat", "/root/mark")
	if err == nil && got != s.mark {
		err = fmt.Errorf("%s has the mark %q in its disk, where %q was left", object, got, s.mark)
	}
	s.h.count.add("find a mark again", err)
	return err
}
