package soak

import (
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"
)

// chaos is what happens on a host besides the daemon.
type chaos struct {
	*host
	u      *users
	random *rand.Rand
	// until is when what lasts for a while ends.
	storm, full, outage time.Time
	hung, faulty, deaf  []types.UID
	ports               []int32
	foreign             []types.UID
	restarts            int
}

func newChaos(u *users, seed uint64) *chaos {
	return &chaos{host: u.host, u: u, random: rand.New(rand.NewPCG(seed, 3))}
}

// minutes is a time of some minutes from now.
func (c *chaos) minutes(most int) time.Time {
	return time.Now().Add(time.Duration(1+c.random.IntN(most*60)) * time.Second)
}

// strike makes one thing go wrong.
func (c *chaos) strike() {
	weighted(c.random, []choice{
		{12, func() { c.to("crash", c.world.Crash) }},
		{6, func() { c.to("guest shuts down", c.world.ShutDownGuest) }},
		{8, func() { c.to("destroyed by hand", c.world.Destroy) }},
		{6, func() { c.to("undefined by hand", c.world.Undefine) }},
		{4, func() { c.to("paused by hand", c.world.Pause) }},
		{6, c.hang},
		{4, c.deafen},
		{4, c.unplug},
		{16, func() { c.storm = c.minutes(6); c.weather.count("storm") }},
		{4, func() { c.full = c.minutes(10); c.weather.count("host fills up") }},
		{4, c.loseHypervisor},
		{2, c.occupy},
		{1, func() { c.weather.count("host reboots"); c.world.RebootHost() }},
		{4, c.jump},
		{2, c.restart},
		{1, c.strange},
	})
	c.tick()
}

// tick begins and ends what lasts for a while.
func (c *chaos) tick() {
	now := time.Now()
	c.weather.set(now.Before(c.storm), now.Before(c.full))
	if !c.outage.IsZero() && now.After(c.outage) {
		c.world.RestoreHypervisor()
		c.outage = time.Time{}
	}
	if c.random.IntN(20) == 0 {
		c.mend()
	}
}

// to does something to some machine, if there is one that it can be done to.
func (c *chaos) to(what string, do func(types.UID) error) (types.UID, bool) {
	if len(c.u.sandboxes) == 0 {
		return "", false
	}
	id := c.u.uids[pick(c.random, c.u.sandboxes...).Name]
	if do(id) != nil {
		return "", false
	}
	c.weather.count(what)
	return id, true
}

func (c *chaos) hang() {
	if id, ok := c.to("guest hangs", func(id types.UID) error { return c.world.SetAgentHung(id, true) }); ok {
		c.hung = append(c.hung, id)
	}
}

func (c *chaos) deafen() {
	if id, ok := c.to("guest ignores shutdown", func(id types.UID) error { return c.world.SetIgnoresShutdown(id, true) }); ok {
		c.deaf = append(c.deaf, id)
	}
}

func (c *chaos) unplug() {
	if id, ok := c.to("network changed by hand", func(id types.UID) error { return c.world.SetNetworkFault(id, "somebody was here") }); ok {
		c.faulty = append(c.faulty, id)
	}
}

func (c *chaos) loseHypervisor() {
	c.weather.count("hypervisor outage")
	c.world.LoseHypervisor()
	c.outage = c.minutes(10)
}

// allPorts is more than a host has to give.
const allPorts = 31000

func (c *chaos) occupy() {
	if len(c.ports) > 0 {
		return
	}
	c.weather.count("ports run out")
	for range allPorts {
		p, err := c.world.OccupyPort()
		if err != nil {
			return
		}
		c.ports = append(c.ports, p)
	}
}

// jump moves the wall clock. A host that slept wakes up with a clock that went on and
// timers that did not: here that is a jump forward.
func (c *chaos) jump() {
	d := pick(c.random, time.Second, time.Minute, 10*time.Minute, time.Hour)
	switch c.random.IntN(3) {
	case 0:
		c.weather.count("clock jumps back")
		d = -d
	case 1:
		c.weather.count("clock jumps forward")
	default:
		c.weather.count("host sleeps")
		d *= 3
	}
	c.wall.jump(d)
}

func (c *chaos) restart() {
	c.restarts++
	if c.random.IntN(2) == 0 {
		c.weather.count("daemon killed")
		c.kill()
	} else {
		c.weather.count("daemon restarted")
		c.end()
	}
	time.Sleep(time.Duration(c.random.IntN(120)) * time.Second)
	c.tick()
	c.start()
}

// strange places a machine of somebody else's, which is never to be touched.
func (c *chaos) strange() {
	if len(c.foreign) >= 5 {
		return
	}
	id := types.UID(uuid.NewString())
	must(c.t, c.world.AddForeign(id, "somebody else"))
	c.foreign = append(c.foreign, id)
	c.weather.count("foreign machine")
}

// mend ends what went wrong with machines, and the lack of ports.
func (c *chaos) mend() {
	for _, id := range c.hung {
		_ = c.world.SetAgentHung(id, false) // it may be gone
	}
	for _, id := range c.deaf {
		_ = c.world.SetIgnoresShutdown(id, false)
	}
	for _, id := range c.faulty {
		_ = c.world.SetNetworkFault(id, "")
	}
	for _, p := range c.ports {
		c.world.ReleasePort(p)
	}
	c.hung, c.deaf, c.faulty, c.ports = nil, nil, nil, nil
}

// calm ends everything that is wrong.
func (c *chaos) calm() {
	c.storm, c.full = time.Time{}, time.Time{}
	c.weather.set(false, false)
	if !c.outage.IsZero() {
		c.world.RestoreHypervisor()
		c.outage = time.Time{}
	}
	c.mend()
}
