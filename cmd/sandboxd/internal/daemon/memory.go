package daemon

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// trimInterval is how often the daemon looks whether it is at rest.
	trimInterval = 2 * time.Second
	// restBytes is the most that a daemon at rest allocates in an interval, or a
	// fraction of what is alive: with many objects it looks at each of them now and
	// then.
	restBytes    = 2 << 20
	restFraction = 4
	// worthTrimming is how many bytes there must be to return to the system, or a
	// fraction of what is alive; and when rest has just come.
	worthTrimming    = 16 << 20
	trimmingFraction = 2
	worthSettling    = 8 << 20
	// restPercent and busyPercent are how much the heap grows until it is collected,
	// in percent of what is alive. Garbage that comes slowly is collected as it comes,
	// which keeps the memory small for a hundredth of a processor; in a burst that
	// would slow it down. A large heap grows at rest by restGrowth at the most, and
	// by leastPercent at the least.
	restPercent  = 25
	leastPercent = 10
	restGrowth   = 12 << 20
	busyPercent  = 50
)

// trimMemory returns the memory of a burst of work to the system once there is
// rest, until the context ends. By itself the runtime takes minutes, and keeps
// as much again as what is alive. store returns what the store's file takes, also
// while there is work: a commit gets the few pages that it needs back at once.
func trimMemory(ctx context.Context, store func() error) {
	var t trimmer
	debug.SetGCPercent(t.percent()) // it finds very many objects, perhaps, that it looks at
	ticker := time.NewTicker(trimInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			m := readMemory()
			due, settled := t.due(m)
			debug.SetGCPercent(t.percent())
			_ = store() // it is closed, or will do next time
			if settled {
				_ = releaseProgram() // or next time
			}
			if due {
				debug.FreeOSMemory()
				t.done(readMemory())
			}
		}
	}
}

// memory is what trimming is decided by, in bytes.
type memory struct {
	// allocated is the sum of all allocations since the start.
	allocated uint64
	// heap is what the heap takes of the system: objects, dead ones included,
	// and free room that was not returned.
	heap uint64
	// live is what the last collection left.
	live uint64
}

// trimmer decides when memory is returned.
type trimmer struct {
	allocated uint64 // at the last look
	floor     uint64 // the least heap since the last trim
	live      uint64 // at the last look
	resting   bool
}

// due tells whether the daemon is at rest with memory that it does not need, and
// whether it has just come to rest. Trimming collects the whole heap, which is worth
// it once after a burst but not over and over.
func (t *trimmer) due(m memory) (due, settled bool) {
	was := t.resting
	t.resting = m.allocated-t.allocated < max(restBytes, m.live/restFraction)
	t.allocated, t.live = m.allocated, m.live
	t.floor = min(t.floor, m.heap)
	settled = t.resting && !was
	grown := m.heap >= t.floor+max(worthTrimming, m.live/trimmingFraction)
	return t.resting && grown || settled && m.heap >= t.floor+worthSettling, settled
}

// done tells what was left by a trim.
func (t *trimmer) done(m memory) { t.allocated, t.floor = m.allocated, m.heap }

// percent is how much the heap may grow until it is collected.
func (t *trimmer) percent() int {
	if !t.resting {
		return busyPercent
	}
	return int(min(restPercent, max(leastPercent, 100*restGrowth/max(t.live, 1))))
}

func readMemory() memory {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/heap/live:bytes"},
	}
	metrics.Read(samples)
	return memory{
		allocated: samples[0].Value.Uint64(),
		heap:      samples[1].Value.Uint64() + samples[2].Value.Uint64() + samples[3].Value.Uint64(),
		live:      samples[4].Value.Uint64(),
	}
}
