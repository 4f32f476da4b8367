package conformance

import (
	"io"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// testForks covers forks whose guests are not waited for.
func (s *suite) testForks(t *testing.T) {
	s.need(t, Snapshots)
	t.Run("what is missing or on another image cannot be forked", s.testNoFork)
	t.Run("a snapshot and its machine are ErrBusy while a fork exists", s.testForkBusy)
	t.Run("a fork is reset to its snapshot, has snapshots of its own, and is forked itself", s.testForkOfFork)
}

// fork is a machine that begins as a snapshot of another.
func (s *suite) fork(t testing.TB, of providers.SnapshotRef, name string) providers.MachineSpec {
	t.Helper()
	spec := s.spec(t, name)
	spec.Snapshot = &of
	return spec
}

func (s *suite) testNoFork(t *testing.T) {
	id := s.made(t, s.spec(t, "origin"))
	fork := s.fork(t, s.snap(t, id, "never", false).SnapshotRef, "fork")
	t.Cleanup(func() { s.remove(t, fork.ID) })
	want(t, "fork what is not there", s.p.EnsureMachine(s.ctx(t), fork), providers.ErrNotFound)
	ref := s.take(t, s.snap(t, id, "there", false))
	fork.Snapshot = &ref
	fork.Image.Revision = "2"
	want(t, "fork what lies on another image", s.p.EnsureMachine(s.ctx(t), fork),
		providers.ErrInvalid, providers.ErrNotFound)
}

func (s *suite) testForkBusy(t *testing.T) {
	origin := s.spec(t, "origin")
	id := s.made(t, origin)
	ref := s.take(t, s.snap(t, id, "forked", false))
	other := s.take(t, s.snap(t, id, "other", false))
	fork := s.fork(t, ref, "fork")
	forked := s.made(t, fork)
	s.ensure(t, fork)
	if m := s.get(t, forked); m.Hashes != fork.Hashes() || m.ImageRevision != origin.Image.Revision {
		t.Errorf("the fork is %+v", m)
	}
	s.start(t, forked)
	s.start(t, id)
	want(t, "delete the snapshot", s.p.DeleteSnapshot(s.ctx(t), ref), providers.ErrBusy)
	want(t, "delete the origin", s.p.DeleteMachine(s.ctx(t), id), providers.ErrBusy)
	s.wantPower(t, id, providers.PowerRunning)
	if _, err := s.p.GetSnapshot(s.ctx(t), ref); err != nil {
		t.Errorf("a refused deletion took the snapshot away: %v", err)
	}
	s.forceOff(t, id)
	s.revert(t, ref, providers.PowerOff)
	s.drop(t, other)
	must(t, "reset the origin", s.p.Reset(s.ctx(t), id))
	s.forceOff(t, forked)
	s.start(t, forked)
	s.reopen(t)
	s.remove(t, forked)
	s.drop(t, ref)
	s.remove(t, id)
}

func (s *suite) testForkOfFork(t *testing.T) {
	s.detail(t)
	id := s.made(t, s.spec(t, "origin"))
	ref := s.take(t, s.snap(t, id, "one", false))
	child := s.made(t, s.fork(t, ref, "child"))
	must(t, "reset the child", s.p.Reset(s.ctx(t), child))
	s.start(t, child)
	second := s.take(t, s.snap(t, child, "two", false))
	grandchild := s.fork(t, second, "grandchild")
	grandchild.DiskBytes = s.grownSize(t, s.image)
	last := s.made(t, grandchild)
	s.start(t, last)
	want(t, "delete the child", s.p.DeleteMachine(s.ctx(t), child), providers.ErrBusy)
	want(t, "delete the image", s.p.DeleteImage(s.ctx(t), s.image.ImageRef), providers.ErrBusy)
	s.revert(t, second, providers.PowerOff)
	s.remove(t, last)
	s.remove(t, child)
	s.remove(t, id)
}

// testTimeline follows what one guest finds after reverts, through as few boots
// as possible:
//
//	boot 1   write "before", leave a process; snapshots, with and without memory;
//	         write "after"
//	         revert to memory      the guest goes on where it was
//	         write "after", revert
//	boot 2   "before" is there, "after" is not, memory is not; write "newer"
//	boot 3   a fork: "before", and a name of its own
//	boot 4   a clone of an image made of the machine: "newer"
func (s *suite) testTimeline(t *testing.T) {
	s.need(t, Snapshots)
	spec := s.clone(t, s.guests, "timeline")
	if s.has(Mode(v1.NetworkNAT)) {
		spec.Network.Mode = v1.NetworkNAT
	}
	id := s.made(t, spec)
	step := func(name string, f func(t *testing.T)) {
		t.Helper()
		if !t.Failed() { // each step begins where the last one ended
			t.Run(name, f)
		}
	}
	disk, memory := s.snap(t, id, "disk", false), s.snap(t, id, "memory", true)
	step("a guest goes on while a snapshot of it is taken", func(t *testing.T) {
		s.boot(t, id)
		s.sh(t, id, "echo before > /root/before && sync")
		pid := s.sh(t, id, "sleep 100000 >/dev/null 2>&1 & echo $!")
		s.take(t, disk)
		s.waitAgent(t, id)
		if len(s.alive(t, id, pid)) == 0 {
			t.Error("a process of the guest did not survive the snapshot")
		}
	})
	step("a revert to a snapshot with memory goes on where the guest was", func(t *testing.T) {
		s.need(t, MemorySnapshots)
		s.testGoesOn(t, memory)
	})
	step("a revert to a snapshot of the disk boots from what was there", func(t *testing.T) {
		s.sh(t, id, "echo after > /root/after && echo changed > /root/before && sync")
		was := s.sh(t, id, "cat /proc/sys/kernel/random/boot_id")
		s.revert(t, disk.SnapshotRef, providers.PowerOff)
		s.boot(t, id)
		s.wantTimeline(t, id, "before", "after")
		if now := s.sh(t, id, "cat /proc/sys/kernel/random/boot_id"); now == was {
			t.Errorf("the guest did not boot anew: %s", now)
		}
		s.sh(t, id, "echo newer > /root/newer && sync")
		s.cleanStop(t, id)
	})
	step("a fork has the content of the snapshot and an identity of its own", func(t *testing.T) {
		fork := spec
		fork.ID, fork.Name, fork.Snapshot = s.id(t, "fork"), "fork", &disk.SnapshotRef
		fork.Seed.Hostname = "fork"
		s.made(t, fork)
		s.testForked(t, fork)
	})
	step("an image made of a machine has what was on its disk", func(t *testing.T) {
		s.detail(t)
		img := s.promotion("timeline", providers.DiskRef{Machine: id})
		s.importFor(t, img)
		clone := s.clone(t, s.guests, "promoted")
		clone.Image = img.ImageRef
		s.boot(t, s.made(t, clone))
		s.wantTimeline(t, clone.ID, "newer", "after")
	})
}

func (s *suite) testGoesOn(t *testing.T, memory providers.SnapshotSpec) {
	id := memory.Machine
	pid := s.sh(t, id, "sleep 100000 >/dev/null 2>&1 & echo $!")
	was := s.sh(t, id, "cat /proc/sys/kernel/random/boot_id")
	s.take(t, memory)
	s.waitAgent(t, id)
	s.sh(t, id, `kill -9 "$1" && echo after > /root/after && sync`, pid)
	s.revert(t, memory.SnapshotRef, providers.PowerSaved)
	s.boot(t, id)
	if len(s.alive(t, id, pid)) == 0 {
		t.Error("a process that ran when the snapshot was taken does not run after the revert")
	}
	if now := s.sh(t, id, "cat /proc/sys/kernel/random/boot_id"); now != was {
		t.Errorf("the guest booted anew: %s, before %s", now, was)
	}
	s.wantTimeline(t, id, "before", "after")
}

// wantTimeline checks which of the timeline's files a guest has.
func (s *suite) wantTimeline(t *testing.T, id types.UID, there, gone string) {
	t.Helper()
	if got := s.try(t, id, `cat "/root/$1"`, there); got.stdout != there+"\n" {
		t.Errorf("the file %s is %q", there, got.stdout)
	}
	if o := s.try(t, id, `cat "/root/$1"`, gone); o.ExitCode == 0 {
		t.Errorf("the file %s is still there: %q", gone, o.stdout)
	}
}

func (s *suite) testForked(t *testing.T, fork providers.MachineSpec) {
	s.boot(t, fork.ID)
	s.wantTimeline(t, fork.ID, "before", "newer")
	if !s.b.Brief && !testing.Short() {
		s.sh(t, fork.ID, "echo newer > /root/newer && echo changed > /root/before && sync")
		s.forceOff(t, fork.ID)
		must(t, "reset", s.p.Reset(s.ctx(t), fork.ID))
		s.boot(t, fork.ID)
		s.wantTimeline(t, fork.ID, "before", "newer")
	}
	eventually(t, s.b.Limits.Boot, func() string { // the agent may be faster than the seed
		if got := s.sh(t, fork.ID, "hostname"); got != fork.Seed.Hostname {
			return "its hostname is " + got
		}
		return ""
	})
	if fork.Network.Mode == v1.NetworkNone {
		return
	}
	macs := s.sh(t, fork.ID, `for i in $(ls /sys/class/net); do cat "/sys/class/net/$i/address"; done`)
	if mac := providers.MACAddress(fork.ID, 0); !slices.Contains(strings.Fields(macs), mac) {
		t.Errorf("the fork has the addresses %q, not %s", macs, mac)
	}
}

// promotion is an image of what is on a disk of ours.
func (s *suite) promotion(name string, from providers.DiskRef) providers.ImageSpec {
	spec := s.imageSpec("promotion " + name)
	spec.Source, spec.From = v1.ImageSource{}, &from
	return spec
}

// testPromotion covers images made of machines whose guests are not waited for.
func (s *suite) testPromotion(t *testing.T) {
	s.need(t, Promotion)
	t.Run("the disk of a machine that is off becomes an image, which outlives it", s.testPromoteMachine)
	t.Run("a snapshot becomes an image while its machine runs", s.testPromoteSnapshot)
	t.Run("what is missing is ErrNotFound, and what runs is ErrBusy", s.testBadPromotion)
}

func (s *suite) testPromoteMachine(t *testing.T) {
	spec := s.spec(t, "origin")
	spec.DiskBytes = s.grownSize(t, s.image)
	id := s.made(t, spec)
	img := s.promotion(t.Name(), providers.DiskRef{Machine: id})
	must(t, "check", s.p.CheckSource(s.ctx(t), img))
	got := s.importFor(t, img)
	if got.ImageRef != img.ImageRef || !strings.HasPrefix(got.Digest, "sha256:") || got.VirtualSize != spec.DiskBytes || got.SealedAt.IsZero() {
		t.Errorf("the image is %+v", got)
	}
	s.reopen(t)
	s.remove(t, id)
	again, err := s.p.ImportImage(s.ctx(t), img, nil)
	must(t, "import again, without the machine", err)
	if !again.SealedAt.Equal(got.SealedAt) || again.Digest != got.Digest {
		t.Errorf("imported twice it is %+v and %+v", got, again)
	}
	clone := s.spec(t, "clone")
	clone.Image = img.ImageRef
	s.start(t, s.made(t, clone))
	want(t, "delete the image", s.p.DeleteImage(s.ctx(t), img.ImageRef), providers.ErrBusy)
}

func (s *suite) testPromoteSnapshot(t *testing.T) {
	s.need(t, Snapshots)
	id := s.made(t, s.spec(t, "origin"))
	ref := s.take(t, s.snap(t, id, "kept", false))
	s.start(t, id)
	img := s.promotion(t.Name(), providers.DiskRef{Machine: id, Snapshot: ref.ID})
	s.importFor(t, img)
	s.wantPower(t, id, providers.PowerRunning)
	s.forceOff(t, id)
	s.drop(t, ref)
	_, err := s.p.GetImage(s.ctx(t), img.ImageRef)
	must(t, "get image", err)
}

func (s *suite) testBadPromotion(t *testing.T) {
	spec := s.spec(t, "origin")
	id := s.made(t, spec)
	s.start(t, id)
	for name, tc := range map[string]struct {
		from providers.DiskRef
		kind error
	}{
		"a machine that runs":          {providers.DiskRef{Machine: id}, providers.ErrBusy},
		"a machine that never was":     {providers.DiskRef{Machine: s.id(t, "absent")}, providers.ErrNotFound},
		"a snapshot that never was":    {providers.DiskRef{Machine: id, Snapshot: s.id(t, "absent")}, providers.ErrNotFound},
		"an image that never was":      {providers.DiskRef{Image: providers.ImageRef{UID: s.id(t, "absent"), Revision: "1"}}, providers.ErrNotFound},
		"a snapshot of no such origin": {providers.DiskRef{Machine: s.id(t, "absent"), Snapshot: s.id(t, "absent")}, providers.ErrNotFound},
	} {
		img := s.promotion(t.Name()+name, tc.from)
		_, err := s.p.ImportImage(s.ctx(t), img, nil)
		want(t, "an image of "+name, err, tc.kind)
		s.wantNoImage(t, img.ImageRef)
		_, err = s.p.OpenDisk(s.ctx(t), tc.from)
		want(t, "opening "+name, err, tc.kind)
	}
}

// testDisks covers disks that are read without a guest.
func (s *suite) testDisks(t *testing.T) {
	s.need(t, ReadDisks)
	t.Run("the disks of images, machines and snapshots can be opened, twice", func(t *testing.T) {
		spec := s.spec(t, "machine")
		spec.DiskBytes = s.grownSize(t, s.image)
		id := s.made(t, spec)
		refs := map[providers.DiskRef]int64{
			{Image: s.image.ImageRef}: spec.DiskBytes - 64<<20, {Machine: id}: spec.DiskBytes,
		}
		if s.has(Snapshots) {
			ref := s.take(t, s.snap(t, id, "kept", false))
			refs[providers.DiskRef{Machine: id, Snapshot: ref.ID}] = spec.DiskBytes
		}
		for ref, size := range refs {
			first, second := s.openDisk(t, ref, size), s.openDisk(t, ref, size)
			first.Close()
			second.Close()
		}
		s.start(t, id) // nothing holds it any more
		_, err := s.p.OpenDisk(s.ctx(t), providers.DiskRef{Machine: id})
		want(t, "open the disk of what runs", err, providers.ErrBusy)
		if s.has(Snapshots) {
			ref := s.snap(t, id, "kept", false).SnapshotRef
			disk := s.openDisk(t, providers.DiskRef{Machine: id, Snapshot: ref.ID}, spec.DiskBytes)
			disk.Close()
		}
		if s.has(Suspend) {
			s.suspend(t, id)
			disk := s.openDisk(t, providers.DiskRef{Machine: id}, spec.DiskBytes)
			disk.Close()
			s.start(t, id)
		}
	})
}

func (s *suite) openDisk(t testing.TB, ref providers.DiskRef, size int64) providers.Disk {
	t.Helper()
	disk, err := s.p.OpenDisk(s.ctx(t), ref)
	must(t, "open "+ref.String(), err)
	if len(disk.Layers) == 0 || disk.Size != size {
		t.Errorf("%s has %d bytes, not %d, in %d layers", ref, disk.Size, size, len(disk.Layers))
	}
	for _, l := range disk.Layers {
		known := []v1.DiskFormat{v1.DiskFormatQCOW2, v1.DiskFormatRaw, v1.DiskFormatVDI}
		if !slices.Contains(known, l.Format) {
			t.Errorf("a layer of %s is of format %q", ref, l.Format)
		}
		if n, err := io.CopyN(io.Discard, l.File, 512); n != 512 {
			t.Errorf("of a layer of %s %d bytes can be read: %v", ref, n, err)
		}
		if _, err := l.File.WriteAt([]byte{0}, 0); err == nil {
			t.Errorf("a layer of %s can be written to", ref)
		}
	}
	return disk
}
