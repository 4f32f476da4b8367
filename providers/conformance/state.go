package conformance

import (
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

// testState follows what one guest keeps, through as few boots as possible:
//
//	boot 1   seed applied; write to the disk, leave a process
//	         suspend, start        memory is as it was
//	         stop gracefully       off because the guest shut down
//	         ensure a larger spec
//	boot 2   hardware and disk are larger, the disk is kept, memory is not
//	         stop, undefine, ensure
//	boot 3   the disk is kept
//	         stop, reset
//	boot 4   golden; write to the disk
//	         stop, ensure DiscardOnStop
//	boot 5   golden; write to the disk; stop by force
//	boot 6   golden
func (s *suite) testState(t *testing.T) {
	spec := s.clone(t, s.guests, "state")
	id := s.made(t, spec)
	step := func(name string, f func(t *testing.T)) {
		t.Helper()
		if !t.Failed() { // each step begins where the last one ended
			t.Run(name, f)
		}
	}
	step("the guest boots with its seed", func(t *testing.T) {
		s.start(t, id)
		// So soon, hardly any guest answers; but what is said then must be right.
		if _, err := s.p.Exec(s.ctx(t), id, providers.ExecRequest{Command: []string{"true"}}); err != nil {
			want(t, "exec before the agent is connected", err, providers.ErrUnavailable)
		}
		s.waitAgent(t, id)
		eventually(t, s.b.Limits.Boot, func() string { // the agent may be faster than the seed
			if got := s.sh(t, id, "hostname"); got != "state" {
				return "its hostname is " + got
			}
			return ""
		})
	})
	step("Suspend keeps memory, and Start goes on from there", func(t *testing.T) { s.testMemory(t, id) })
	step("Stop asks the guest to shut down", func(t *testing.T) { s.testGraceful(t, id) })
	step("a disk grows and hardware changes at the next start, and the disk is kept", func(t *testing.T) {
		s.testGrowth(t, id, &spec)
	})
	step("EnsureMachine keeps the disk of a machine that was removed by others", func(t *testing.T) {
		s.testUndefined(t, id, spec)
	})
	step("Reset replaces the disk by the golden one", func(t *testing.T) {
		s.cleanStop(t, id)
		must(t, "reset", s.p.Reset(s.ctx(t), id))
		s.boot(t, id)
		s.wantGolden(t, id)
		s.wantSize(t, id, spec)
	})
	step("DiscardOnStop makes every start begin from the image", func(t *testing.T) {
		s.mark(t, id)
		s.cleanStop(t, id)
		spec.DiscardOnStop = true
		s.ensure(t, spec)
		s.boot(t, id)
		s.wantGolden(t, id)
		s.mark(t, id)
		s.forceOff(t, id)
		s.boot(t, id)
		s.wantGolden(t, id)
		s.wantSize(t, id, spec)
	})
	step("Exec ends with an error when its machine goes off", func(t *testing.T) { s.testPulledPlug(t, id) })
}

func (s *suite) testPulledPlug(t *testing.T, id types.UID) {
	done := make(chan error, 1)
	ctx := within(t, s.b.Limits.Boot)
	out := &signalled{text: "on\n", seen: make(chan struct{})}
	go func() {
		_, err := s.p.Exec(ctx, id, providers.ExecRequest{
			Command: []string{"sh", "-c", "echo on; sleep 100000"}, Stdout: out,
		})
		done <- err
	}()
	select {
	case <-out.seen:
	case err := <-done:
		t.Fatalf("exec ended too soon: %v", err)
	}
	s.forceOff(t, id)
	want(t, "exec", <-done, providers.ErrUnavailable, providers.ErrBusy)
}

// mark writes to the disk what wantKept and wantGolden look for.
func (s *suite) mark(t *testing.T, id types.UID) {
	t.Helper()
	s.sh(t, id, "echo kept > /root/marker && sync")
}

func (s *suite) wantGolden(t *testing.T, id types.UID) {
	t.Helper()
	if o := s.try(t, id, "cat /root/marker"); o.ExitCode == 0 {
		t.Errorf("the disk still has what was written to it: %q", o.stdout)
	}
}

func (s *suite) wantKept(t *testing.T, id types.UID) {
	t.Helper()
	if got := s.sh(t, id, "cat /root/marker"); got != "kept" {
		t.Errorf("what was written to the disk is now %q", got)
	}
}

// cleanStop stops a machine in the best way that the backend has.
func (s *suite) cleanStop(t *testing.T, id types.UID) {
	t.Helper()
	if !s.has(GracefulStop) {
		s.forceOff(t, id)
		return
	}
	must(t, "stop gracefully", s.p.Stop(s.ctx(t), id, providers.StopGraceful))
	s.waitPower(t, id, providers.PowerOff)
}

func (s *suite) testMemory(t *testing.T, id types.UID) {
	s.mark(t, id)
	s.need(t, Suspend)
	pid := s.sh(t, id, "sleep 100000 >/dev/null 2>&1 & echo $!")
	boot := s.sh(t, id, "cat /proc/sys/kernel/random/boot_id")
	s.suspend(t, id)
	s.reopen(t)
	s.reports(t, providers.EventMachine, id, func() { s.boot(t, id) })
	if len(s.alive(t, id, pid)) == 0 {
		t.Error("a process of the guest did not survive")
	}
	if got := s.sh(t, id, "cat /proc/sys/kernel/random/boot_id"); got != boot {
		t.Errorf("the guest booted anew: %s, before %s", got, boot)
	}
	s.wantKept(t, id)
}

func (s *suite) testGraceful(t *testing.T, id types.UID) {
	s.need(t, GracefulStop)
	s.reports(t, providers.EventMachine, id, func() {
		must(t, "stop", s.p.Stop(s.ctx(t), id, providers.StopGraceful))
	})
	// Asking again does no harm, whether or not the guest is off by now.
	if err := s.p.Stop(s.ctx(t), id, providers.StopGraceful); err != nil {
		t.Errorf("stop again: %v", err)
	}
	if m := s.waitPower(t, id, providers.PowerOff); m.OffReason != providers.OffShutdown {
		t.Errorf("it is off by %s, not %s", m.OffReason, providers.OffShutdown)
	}
}

func (s *suite) testGrowth(t *testing.T, id types.UID, spec *providers.MachineSpec) {
	if s.get(t, id).Power != providers.PowerOff {
		s.forceOff(t, id)
	}
	spec.MemoryBytes += 64 << 20
	spec.DiskBytes = s.grownSize(t, s.guests)
	spec.CPUs += s.moreCPUs()
	s.ensure(t, *spec)
	s.boot(t, id)
	s.wantKept(t, id)
	s.wantSize(t, id, *spec)
	// A disk never shrinks.
	s.cleanStop(t, id)
	smaller := *spec
	smaller.DiskBytes = 0
	s.ensure(t, smaller)
	s.ensure(t, *spec)
}

// wantSize looks from inside at what a machine is made of.
func (s *suite) wantSize(t *testing.T, id types.UID, spec providers.MachineSpec) {
	t.Helper()
	var kB int64
	for line := range strings.Lines(s.sh(t, id, "cat /proc/meminfo")) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemTotal:" {
			kB, _ = strconv.ParseInt(f[1], 10, 64)
		}
	}
	// A kernel keeps some for itself, and 64 MiB less is the smaller machine.
	if kB<<10 > spec.MemoryBytes || kB<<10 < spec.MemoryBytes-60<<20 {
		t.Errorf("the guest has %d kB of memory, the spec %d", kB, spec.MemoryBytes>>10)
	}
	if cpus := strings.Count(s.sh(t, id, "cat /proc/cpuinfo"), "processor\t"); cpus != spec.CPUs {
		t.Errorf("the guest has %d CPUs, the spec %d", cpus, spec.CPUs)
	}
	if s.has(Growth) {
		sectors, err := strconv.ParseInt(s.sh(t, id, `cat "/sys/block/$1/size"`, s.b.RootDisk), 10, 64)
		if err != nil || sectors*512 != spec.DiskBytes {
			t.Errorf("the guest's disk has %d bytes, the spec %d, %v", sectors*512, spec.DiskBytes, err)
		}
	}
}

func (s *suite) testUndefined(t *testing.T, id types.UID, spec providers.MachineSpec) {
	if !s.has(Outside) {
		s.boot(t, id)
		s.need(t, Outside)
	}
	s.reports(t, providers.EventMachine, id, func() { s.b.Undefine(t, id) })
	_, err := s.p.GetMachine(s.ctx(t), id)
	want(t, "get what others removed", err, providers.ErrNotFound)
	s.ensure(t, spec)
	if m := s.get(t, id); m.Power != providers.PowerOff || m.Hashes != spec.Hashes() {
		t.Errorf("the machine that was made again is %+v", m)
	}
	s.boot(t, id)
	s.wantKept(t, id)
	s.wantSize(t, id, spec)
}
