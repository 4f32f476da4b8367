package fake

import (
	"cmp"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake/internal/guest"
)

// machine is a machine as the hypervisor has it. Everything in it is guarded by
// the world's lock.
type machine struct {
	id types.UID
	// tag says whose it is: an instance, or whatever others put there.
	tag string
	// spec and hashes as defined; the running machine has its own.
	spec          providers.MachineSpec
	hashes        providers.Hashes
	runningSpec   providers.MachineSpec
	runningHashes providers.Hashes
	forwards      []v1.PortForward // resolved, in the order of the spec

	power     providers.Power
	offReason providers.OffReason
	// fault says what is wrong with its network on the host; empty if nothing.
	fault string
	// edits of others, and where the card of the running machine was moved to.
	edits edits
	moved string

	// system is the guest; nil while the machine is off.
	system *guest.System
	timer  clock.Timer // of the boot or the shutdown under way
	booted bool        // the agent has connected
	hung   bool        // the agent does not answer
	deaf   bool        // the guest ignores requests to shut down
	// starved: the host has no space for what the guest writes.
	starved bool
	// paused says why it is, where the hypervisor would know.
	paused providers.PauseReason
	// link is closed when calls into the guest lose it; nil while nothing can
	// be reached.
	link chan struct{}
}

// parts are what belongs to a machine in the data folder.
type parts struct {
	disk *disk
	// lost is the disk that the machine is made of and whose file is gone.
	lost  *disk
	seed  bool
	saved bool
	// reverted: the disk was put back to a snapshot, and not written to since.
	reverted bool
	log      *console
	// snapshots of the machine, and those that are being taken.
	snapshots map[types.UID]*snapshot
	staged    map[types.UID]bool
}

type ref = providers.ImageRef

func (p *parts) kinds() []providers.ResourceKind {
	var kinds []providers.ResourceKind
	if p.disk != nil {
		kinds = append(kinds, providers.ResourceDisk)
	}
	if p.seed {
		kinds = append(kinds, providers.ResourceSeed)
	}
	if p.saved {
		kinds = append(kinds, providers.ResourceState)
	}
	if p.log != nil {
		kinds = append(kinds, providers.ResourceLog)
	}
	return kinds
}

// parts returns the parts of a machine, made empty; it needs the lock.
func (f *folder) partsOf(id types.UID) *parts {
	p, ok := f.parts[id]
	if !ok {
		p = &parts{snapshots: map[types.UID]*snapshot{}, staged: map[types.UID]bool{}}
		f.parts[id] = p
	}
	return p
}

// dropPart forgets a part, and the parts once they are empty; it needs the lock.
func (f *folder) dropPart(id types.UID, kind providers.ResourceKind) {
	p, ok := f.parts[id]
	if !ok {
		return
	}
	switch kind {
	case providers.ResourceDisk:
		p.disk, p.lost = nil, nil
	case providers.ResourceSeed:
		p.seed = false
	case providers.ResourceState:
		p.saved = false
	case providers.ResourceLog:
		if p.log != nil {
			p.log.remove()
			p.log = nil
		}
	}
	f.tidy(id)
}

// tidy forgets the parts of a machine once there are none; it needs the lock.
func (f *folder) tidy(id types.UID) {
	if p, ok := f.parts[id]; ok && len(p.kinds())+len(p.snapshots)+len(p.staged) == 0 {
		delete(f.parts, id)
	}
}

// own returns a machine of the provider's instance, or nil; it needs the lock.
func (p *Provider) own(id types.UID) *machine {
	if m := p.w.machines[id]; m != nil && m.tag == string(p.instance) {
		return m
	}
	return nil
}

// The following methods change a machine's power state. They need the lock.

// powerOn makes the guest, standing still, from the disk and the spec.
func (w *World) powerOn(m *machine) {
	pt := w.folder(providers.Instance(m.tag)).partsOf(m.id)
	if m.spec.DiscardOnStop && !pt.reverted {
		pt.disk = w.folder(providers.Instance(m.tag)).golden(pt.disk.image, pt.disk.from, pt.disk.Size())
	}
	if pt.log == nil {
		pt.log = newConsole()
	}
	m.runningSpec, m.runningHashes, m.moved = m.edited(), m.hashes, m.edits.card
	booted := pt.disk.Disk
	if m.edits.disk != "" {
		booted = guest.NewDisk(pt.disk.Size())
	}
	var system *guest.System
	system = guest.Boot(booted, w.config(m, pt.log, func() *guest.System { return system }))
	m.system, m.booted, m.hung = system, false, false
	pt.log.printf("fake: starting %s/%s\n", m.spec.Namespace, m.spec.Name)
	if m.spec.Seed.UserData != "" {
		pt.log.printf("fake: the user data is not run: this guest is simulated\n")
	}
	w.setPower(m, providers.PowerPaused)
}

// config is what the guest of a machine boots with. system is asked for it later.
func (w *World) config(m *machine, log *console, system func() *guest.System) guest.Config {
	spec := m.runningSpec
	mac := ""
	if spec.Network.Mode != v1.NetworkNone {
		mac = providers.MACAddress(m.id, 0)
	}
	return guest.Config{
		MAC:        mac,
		InstanceID: string(m.id),
		Hostname:   cmp.Or(spec.Seed.Hostname, spec.Name),
		User:       spec.Seed.User,
		Keys:       spec.Seed.SSHAuthorizedKeys,
		CPUs:       spec.CPUs,
		Memory:     spec.MemoryBytes,
		Console:    log,
		Clock:      w.clock,
		PowerOff: func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			if m.system == system() && m.power == providers.PowerRunning {
				w.shutDown(m)
			}
		},
	}
}

// resume lets the guest run, and boot if it has not.
func (w *World) resume(m *machine) {
	w.folder(providers.Instance(m.tag)).dropPart(m.id, providers.ResourceState)
	w.folder(providers.Instance(m.tag)).partsOf(m.id).reverted = false
	m.system.Thaw()
	m.paused = ""
	w.setPower(m, providers.PowerRunning)
	if m.starved { // it writes again what did not fit
		w.starve(m)
		return
	}
	if m.runningSpec.Install != nil {
		w.install(m)
		return
	}
	if m.booted {
		w.connect(m)
		return
	}
	w.after(m, w.latency.Boot, func() {
		w.folder(providers.Instance(m.tag)).partsOf(m.id).log.printf("fake: %s is up\n", m.spec.Name)
		m.booted = true
		w.connect(m)
	})
}

// connect lets calls reach the guest.
func (w *World) connect(m *machine) {
	pt := w.folder(providers.Instance(m.tag)).partsOf(m.id)
	if m.hung || w.agentless(m, pt) {
		return
	}
	m.link = make(chan struct{})
	w.emit(providers.Instance(m.tag), providers.EventGuest, m.id)
}

func (w *World) agentless(m *machine, pt *parts) bool {
	img := w.folder(providers.Instance(m.tag)).images[pt.made().image]
	return img != nil && img.agentless
}

// disconnect makes the calls into the guest lose it.
func (w *World) disconnect(m *machine) {
	if m.link == nil {
		return
	}
	close(m.link)
	m.link = nil
	w.emit(providers.Instance(m.tag), providers.EventGuest, m.id)
}

// freeze makes the guest stand still.
func (w *World) freeze(m *machine, p providers.Power) {
	w.disconnect(m)
	w.stopTimer(m)
	m.system.Freeze()
	w.setPower(m, p)
}

// starve halts a guest that finds no space.
func (w *World) starve(m *machine) {
	m.paused = providers.PausedNoSpace
	w.freeze(m, providers.PowerPaused)
}

// powerOff ends the guest.
func (w *World) powerOff(m *machine, reason providers.OffReason) {
	if m.power == providers.PowerOff {
		return
	}
	w.disconnect(m)
	w.stopTimer(m)
	if m.system != nil {
		m.system.Halt()
		m.system = nil
	}
	w.folder(providers.Instance(m.tag)).dropPart(m.id, providers.ResourceState)
	m.offReason, m.moved = reason, ""
	w.setPower(m, providers.PowerOff)
}

func (w *World) setPower(m *machine, p providers.Power) {
	m.power = p
	w.emit(providers.Instance(m.tag), providers.EventMachine, m.id)
}

// after runs f under the lock once d has passed, unless the guest has ended or
// something else was set for it. f runs at once when d is 0.
func (w *World) after(m *machine, d time.Duration, f func()) {
	w.stopTimer(m)
	if d <= 0 {
		f()
		return
	}
	var t clock.Timer
	t = w.clock.AfterFunc(d, func() {
		// Some clocks call this while they are locked.
		go func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			if m.timer == t {
				m.timer = nil
				f()
			}
		}()
	})
	m.timer = t
}

func (w *World) stopTimer(m *machine) {
	if m.timer != nil {
		m.timer.Stop()
		m.timer = nil
	}
}

// remove takes the definition of a machine away, whatever it does.
func (w *World) remove(m *machine) {
	w.powerOff(m, providers.OffDestroyed)
	delete(w.machines, m.id)
	w.ports.release(m.id)
	w.emit(providers.Instance(m.tag), providers.EventMachine, m.id)
}
