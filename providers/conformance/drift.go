package conformance

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// drifted says what is to be said of a tampering.
type drifted struct {
	how    Tampering
	reason string
	// off and on are the remedies that are right of a machine in that state.
	off, on []providers.Remedy
}

var (
	mended   = []providers.Remedy{providers.RemedyEnsure, providers.RemedyOff}
	unmended = []providers.Remedy{providers.RemedyNone}
	// Off, nothing leaks; on, what was moved must not run on.
	connectedOff = []providers.Remedy{providers.RemedyEnsure, providers.RemedyOff, providers.RemedyPowerOff}
	connectedOn  = []providers.Remedy{providers.RemedyEnsure, providers.RemedyPowerOff}
)

var allDrifted = []drifted{
	{TamperMemory, v1.ReasonDefinitionChanged, mended, mended},
	{TamperCPUs, v1.ReasonDefinitionChanged, mended, mended},
	{TamperName, v1.ReasonDefinitionChanged, mended, mended},
	{TamperDevice, v1.ReasonDefinitionChanged, mended, slices.Concat(mended, connectedOn)},
	{TamperDisk, v1.ReasonDiskChanged, mended, mended},
	{TamperNIC, v1.ReasonNetworkChanged, connectedOff, connectedOn},
	{TamperNetwork, v1.ReasonNetworkChanged, connectedOff, connectedOn},
	{TamperDiskFile, v1.ReasonDiskLost, unmended, unmended},
	{TamperSnapshot, v1.ReasonForeignSnapshots, unmended, unmended},
}

// driftsOf picks tamperings, in the order of the table.
func driftsOf(hows ...Tampering) []drifted {
	return slices.DeleteFunc(slices.Clone(allDrifted), func(d drifted) bool { return !slices.Contains(hows, d.how) })
}

// testDrift covers what others change of a machine behind our back. That a
// machine which nobody touched has no drift is checked wherever one is observed.
func (s *suite) testDrift(t *testing.T) {
	hardware := driftsOf(TamperMemory, TamperCPUs, TamperName, TamperDevice, TamperDisk, TamperNIC)
	t.Run("what others changed of a machine that is off is told, and EnsureMachine puts it back and keeps the disk", func(t *testing.T) {
		s.testMended(t, hardware)
	})
	t.Run("a machine that is off is connected again as its spec says", func(t *testing.T) {
		s.testMendedNetwork(t, driftsOf(TamperNIC, TamperNetwork))
	})
	t.Run("what cannot be put right is told with what to do, and EnsureMachine is ErrInvalid and changes nothing", func(t *testing.T) {
		s.testUnmended(t, driftsOf(TamperDiskFile, TamperSnapshot))
	})
	t.Run("Reset gives a machine a disk again whose own was lost", s.testDiskAgain)
	t.Run("what others changed of a machine that is on is told, and does not run on where it leaks", func(t *testing.T) {
		s.testDriftOn(t, driftsOf(TamperMemory, TamperNIC, TamperNetwork, TamperSnapshot))
	})
	t.Run("a machine whose disk is lost runs on", func(t *testing.T) {
		s.testDriftOn(t, driftsOf(TamperDiskFile))
	})
	t.Run("DeleteMachine leaves nothing of a machine that others changed", s.testDeleteDrifted)
	t.Run("a process that ends while it puts a machine back is followed by one that does", s.testMendInterrupted)
}

// tamper changes a machine that is a test's own.
func (s *suite) tamper(t *testing.T, id types.UID, how Tampering) {
	t.Helper()
	s.touched.Store(id, true)
	s.b.Tamper(t, id, how)
}

// wantDrift waits until a tampering is told, twice the same.
func (s *suite) wantDrift(t *testing.T, id types.UID, reason string, remedies []providers.Remedy) providers.Drift {
	t.Helper()
	var found providers.Drift
	var all []providers.Drift
	eventually(t, s.b.Limits.Call, func() string {
		all = s.get(t, id).Drift
		for _, d := range all {
			if d.Reason == reason && slices.Contains(remedies, d.Remedy) {
				found = d
				return ""
			}
		}
		return "it is not told as " + reason + ", but as " + providers.Details(all)
	})
	if again := s.get(t, id).Drift; !slices.Equal(again, all) {
		t.Errorf("the same drift is told as %+v and as %+v", all, again)
	}
	return found
}

// wantNoDrift demands that a machine is as made again.
func (s *suite) wantNoDrift(t *testing.T, spec providers.MachineSpec) {
	t.Helper()
	m := s.get(t, spec.ID)
	if len(m.Drift) > 0 || m.Hashes != spec.Hashes() || m.ImageRevision != spec.Image.Revision {
		t.Errorf("put back, the machine is %+v, and was made of %+v", m, spec.Hashes())
	}
}

// wrongDrift says what is wrong with what is said of a drift.
func wrongDrift(d providers.Drift) string {
	reasons := []string{
		v1.ReasonDefinitionChanged, v1.ReasonNetworkChanged, v1.ReasonDiskLost, v1.ReasonDiskChanged, v1.ReasonForeignSnapshots,
	}
	remedies := []providers.Remedy{
		providers.RemedyEnsure, providers.RemedyOff, providers.RemedyPowerOff, providers.RemedyNone,
	}
	const longest = 1000
	wrongText := func(text string) bool {
		return len(text) > longest || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) ||
			strings.HasSuffix(text, ".") || strings.TrimSpace(text) != text
	}
	switch {
	case !slices.Contains(reasons, d.Reason):
		return "has a reason of its own"
	case !slices.Contains(remedies, d.Remedy):
		return "has a remedy of its own"
	case d.Detail == "" || wrongText(d.Detail):
		return "does not say what differs in one bounded and printable text without an end"
	case (d.Remedy == providers.RemedyNone) != (d.Advice != "") || wrongText(d.Advice):
		return "does not say what people can do, when only they can"
	}
	return ""
}

// checkDrift is of every machine that is observed.
func (s *suite) checkDrift(t testing.TB, m providers.Machine) {
	t.Helper()
	for _, d := range m.Drift {
		if wrong := wrongDrift(d); wrong != "" {
			t.Errorf("the drift %+v %s", d, wrong)
		}
	}
	if len(m.Drift) == 0 {
		return
	}
	if _, touched := s.touched.LoadOrStore(m.ID, true); !touched { // told once
		t.Errorf("nobody touched the machine, which is %s, and yet it drifted: %+v", m.Power, m.Drift)
	}
}

// anyOf skips a test of tamperings none of which can be shown.
func (s *suite) anyOf(t *testing.T, all []drifted, feature func(Tampering) Feature) {
	t.Helper()
	for _, d := range all {
		if s.has(feature(d.how)) {
			return
		}
	}
	s.need(t, feature(all[0].how))
}

// anyConnection is a mode in which a machine has a network card.
func (s *suite) anyConnection(t *testing.T) v1.NetworkMode {
	t.Helper()
	if !s.has(Mode(v1.NetworkIntnet)) && !s.has(Mode(v1.NetworkHostOnly)) && s.has(Mode(v1.NetworkNAT)) {
		return v1.NetworkNAT
	}
	return s.anyNetwork(t)
}

// testMended tampers with one machine in all ways, one after the other, whose guest
// is looked into before and after. The brief form takes one that has no guest.
func (s *suite) testMended(t *testing.T, all []drifted) {
	s.anyOf(t, all, Drifts)
	spec := s.spec(t, "machine")
	if !s.b.Brief {
		spec = s.clone(t, s.guests, "machine")
		spec.DiskBytes = s.grownSize(t, s.guests)
	}
	id := s.made(t, spec)
	if !s.b.Brief {
		s.boot(t, id)
		s.mark(t, id)
		s.cleanStop(t, id)
	}
	for _, d := range all {
		t.Run(string(d.how), func(t *testing.T) {
			s.need(t, Drifts(d.how))
			s.tamper(t, id, d.how)
			s.wantDrift(t, id, d.reason, d.off)
			s.ensure(t, spec)
			s.wantNoDrift(t, spec)
			s.ensure(t, spec)
			s.wantNoDrift(t, spec)
		})
	}
	s.reopen(t)
	s.wantNoDrift(t, spec)
	if s.b.Brief {
		s.start(t, id)
	} else {
		s.boot(t, id)
		s.wantKept(t, id)
		s.wantSize(t, id, spec)
	}
	s.wantNoDrift(t, spec)
}

// testMendedNetwork tampers with the connection of a machine, which Start neither
// lets run as it is.
func (s *suite) testMendedNetwork(t *testing.T, all []drifted) {
	s.anyOf(t, all, Drifts)
	spec := s.network(t, "machine", s.anyConnection(t))
	id := s.made(t, spec)
	for _, d := range all {
		t.Run(string(d.how), func(t *testing.T) {
			s.need(t, Drifts(d.how))
			s.tamper(t, id, d.how)
			s.wantDrift(t, id, d.reason, d.off)
			if err := s.p.Start(s.ctx(t), id); err == nil {
				if m := s.get(t, id); !m.Network.Isolated || len(m.Drift) > 0 {
					t.Errorf("it was started as %+v", m)
				}
				s.forceOff(t, id)
			} else {
				s.wantPower(t, id, providers.PowerOff)
			}
			s.ensure(t, spec)
			s.wantNoDrift(t, spec)
			s.ensure(t, spec)
			s.wantNoDrift(t, spec)
		})
	}
	s.start(t, id)
	if m := s.get(t, id); !m.Network.Isolated || len(m.Drift) > 0 {
		t.Errorf("put back and started it is %+v", m)
	}
}

// unchanged compares what of a machine others cannot have changed meanwhile.
func unchanged(a, b providers.Machine) bool {
	return a.Power == b.Power && a.OffReason == b.OffReason && a.Hashes == b.Hashes &&
		a.ImageRevision == b.ImageRevision && slices.Equal(a.Drift, b.Drift)
}

// wantRefused demands that EnsureMachine changes nothing, and says why.
func (s *suite) wantRefused(t *testing.T, spec providers.MachineSpec, d providers.Drift) {
	t.Helper()
	before := s.get(t, spec.ID)
	changed := spec
	changed.MemoryBytes += 32 << 20
	for range 2 {
		for _, wanted := range []providers.MachineSpec{spec, changed} {
			err := s.p.EnsureMachine(s.ctx(t), wanted)
			want(t, "ensure", err, providers.ErrInvalid)
			if err != nil && providers.ReasonOf(err) != d.Reason {
				t.Errorf("the reason of %q is %s, not %s", err, providers.ReasonOf(err), d.Reason)
			}
		}
	}
	if after := s.get(t, spec.ID); !unchanged(before, after) {
		t.Errorf("the machine was %+v, and now is %+v", before, after)
	}
}

func (s *suite) testUnmended(t *testing.T, all []drifted) {
	for _, d := range all {
		t.Run(string(d.how), func(t *testing.T) {
			s.need(t, Drifts(d.how))
			spec := s.spec(t, "machine")
			id := s.made(t, spec)
			s.tamper(t, id, d.how)
			s.wantRefused(t, spec, s.wantDrift(t, id, d.reason, d.off))
			s.reopen(t)
			s.wantDrift(t, id, d.reason, d.off)
			s.remove(t, id)
		})
	}
}

func (s *suite) testDiskAgain(t *testing.T) {
	s.need(t, Drifts(TamperDiskFile))
	spec := s.spec(t, "machine")
	if s.has(Growth) {
		spec.DiskBytes = s.grownSize(t, s.image)
	}
	id := s.made(t, spec)
	size := s.diskSize(t, id)
	s.tamper(t, id, TamperDiskFile)
	s.wantDrift(t, id, v1.ReasonDiskLost, unmended)
	s.wantDiskLost(t, id)
	for range 2 {
		must(t, "reset", s.p.Reset(s.ctx(t), id))
		s.wantNoDrift(t, spec)
		if now := s.diskSize(t, id); now != size {
			t.Errorf("the fresh disk has %d bytes, and the lost one had %d", now, size)
		}
	}
	s.ensure(t, spec)
	s.start(t, id)
}

// wantDiskLost demands that what needs the disk of a machine that has lost it says so:
// the machine is there.
func (s *suite) wantDiskLost(t *testing.T, id types.UID) {
	t.Helper()
	calls := map[string]func() error{"start": func() error { return s.p.Start(s.ctx(t), id) }}
	if s.has(ReadDisks) {
		calls["open disk"] = func() error {
			d, err := s.p.OpenDisk(s.ctx(t), providers.DiskRef{Machine: id})
			if err == nil {
				d.Close()
			}
			return err
		}
	}
	if s.has(Snapshots) {
		calls["snapshot"] = func() error {
			_, err := s.p.TakeSnapshot(s.ctx(t), s.snap(t, id, "of-nothing", false))
			return err
		}
	}
	for name, call := range calls {
		err := call()
		want(t, name, err, providers.ErrInvalid)
		if err != nil && providers.ReasonOf(err) != v1.ReasonDiskLost {
			t.Errorf("%s: the reason of %q is %s", name, err, providers.ReasonOf(err))
		}
		s.wantPower(t, id, providers.PowerOff)
	}
}

// diskSize of a machine that is off, or 0 where disks cannot be read.
func (s *suite) diskSize(t *testing.T, id types.UID) int64 {
	t.Helper()
	if !s.has(ReadDisks) {
		return 0
	}
	d, err := s.p.OpenDisk(s.ctx(t), providers.DiskRef{Machine: id})
	if err != nil {
		t.Errorf("open disk: %v", err)
		return 0
	}
	defer d.Close()
	return d.Size
}

// testDriftOn tampers with one machine that runs, in all ways, and puts it back in
// the way that each asks for. What cannot be put back comes last.
func (s *suite) testDriftOn(t *testing.T, all []drifted) {
	s.anyOf(t, all, DriftsOn)
	spec := s.network(t, "machine", s.anyConnection(t))
	id := s.made(t, spec)
	s.start(t, id)
	for _, d := range all {
		t.Run(string(d.how), func(t *testing.T) {
			s.need(t, DriftsOn(d.how))
			s.tamper(t, id, d.how)
			found := s.wantDrift(t, id, d.reason, d.on)
			if found.Remedy == providers.RemedyNone {
				s.wantRefused(t, spec, found)
				if m := s.wantPower(t, id, providers.PowerRunning); !m.Network.Isolated {
					t.Errorf("it runs on as %+v", m)
				}
				return
			}
			s.ensure(t, spec)
			if found.Remedy != providers.RemedyEnsure {
				s.wantPower(t, id, providers.PowerRunning)
				s.wantDrift(t, id, d.reason, d.on)
				s.forceOff(t, id)
				s.ensure(t, spec)
				s.wantNoDrift(t, spec)
				s.start(t, id)
			}
			s.wantNoDrift(t, spec)
			if m := s.wantPower(t, id, providers.PowerRunning); !m.Network.Isolated {
				t.Errorf("put back it runs as %+v", m)
			}
		})
	}
	s.remove(t, id)
}

func (s *suite) testDeleteDrifted(t *testing.T) {
	for _, d := range allDrifted {
		t.Run(string(d.how), func(t *testing.T) {
			s.need(t, Drifts(d.how))
			id := s.made(t, s.network(t, "machine", s.anyConnection(t)))
			s.tamper(t, id, d.how)
			if err := s.p.DeleteMachine(s.ctx(t), id); err != nil && !errors.Is(err, providers.ErrNotFound) {
				t.Errorf("delete: %v", err)
			}
			s.remove(t, id)
		})
	}
}

// testMendInterrupted dies at each inner step of putting a machine back.
func (s *suite) testMendInterrupted(t *testing.T) {
	s.detail(t)
	if s.b.Interrupt == nil {
		t.Skip("the backend has no means to cut a call off at its inner steps")
	}
	for _, d := range driftsOf(TamperMemory, TamperDisk, TamperNIC, TamperNetwork) {
		t.Run(string(d.how), func(t *testing.T) {
			s.need(t, Drifts(d.how))
			spec := s.network(t, "machine", s.anyConnection(t))
			id := s.made(t, spec)
			for step := 1; ; step++ {
				s.tamper(t, id, d.how)
				s.wantDrift(t, id, d.reason, d.off)
				completed := s.b.Interrupt(step, func() { s.ensure(t, spec) })
				s.reopen(t)
				s.ensure(t, spec)
				s.wantNoDrift(t, spec)
				if completed || t.Failed() {
					return
				}
			}
		})
	}
}
