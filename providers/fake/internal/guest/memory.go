package guest

import "context"

// Memory is what a System keeps besides its disk, held fast at one moment.
type Memory struct {
	cfg              Config
	bootID, hostname string
	temporary, run   *tree
	processes        []standIn
	lastPID          int
}

// standIn is a process of a Memory.
type standIn struct{ pid, session int }

// Size in bytes.
func (m *Memory) Size() int64 { return m.cfg.Memory }

// Memory copies what the system keeps besides its disk. Directories of the host
// that are mounted are not part of it.
func (s *System) Memory() *Memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &Memory{cfg: s.cfg, bootID: s.bootID, hostname: s.hostname, lastPID: s.lastPID}
	for _, at := range s.mounts {
		switch at.at {
		case "/tmp":
			m.temporary = at.fs.(*tree).clone()
		case "/run":
			m.run = at.fs.(*tree).clone()
		}
	}
	for _, pid := range sortedInts(s.processes) {
		m.processes = append(m.processes, standIn{pid, s.processes[pid].session})
	}
	return m
}

// Resume makes a system that goes on from a memory, with the disk as it was at
// that moment. It is frozen until Thaw. Programs are goroutines and cannot be
// copied: a process that was there is there again, with its number and its
// session, and can be killed, but makes no further step.
func Resume(disk *Disk, m *Memory, cfg Config) *System {
	ctx, halt := context.WithCancelCause(context.Background())
	s := &System{
		cfg: cfg, disk: disk, ctx: ctx, halt: halt, hostname: m.hostname, bootID: m.bootID,
		processes: map[int]*process{}, lastPID: m.lastPID, frozen: make(chan struct{}),
	}
	s.mountOwn(m.temporary.clone(), m.run.clone())
	for _, was := range m.processes {
		p := &process{sys: s, pid: was.pid, session: was.session, done: make(chan struct{})}
		p.ctx, p.end = context.WithCancelCause(ctx)
		s.processes[p.pid] = p
		go func() {
			defer close(p.done)
			p.run(func(c call) int { <-c.ctx.Done(); return 0 }, call{})
		}()
	}
	return s
}
