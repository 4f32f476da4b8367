// Package guest is a small computer in memory: a disk, a few programs, files
// and processes. It stands for what runs inside a machine of the fake provider.
//
//	Disk ──Boot──▶ System ──Halt──▶ gone, the Disk stays
//	                │  ▲
//	          Freeze▼  │Thaw        processes stand still, memory is kept
//
//	/            the Disk
//	/tmp /run    in memory, gone with the System
//	/dev /proc   generated; /dev/console is the serial console
//	mounted      directories of the real host, confined to them
//
// Programs run in process, as goroutines, and end with the System. Users exist
// by name only: there are no permissions.
package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"k8s.io/utils/clock"
)

// Errors of the methods, besides syscall.Errno.
var (
	ErrHalted        = errors.New("the computer was turned off")
	ErrNoUser        = errors.New("no such user")
	ErrNoProgram     = errors.New("no such program")
	ErrNotExecutable = errors.New("not executable")
)

// Config is the hardware and the seed that a system boots with.
type Config struct {
	// InstanceID names the machine to the guest; another one on the same disk
	// makes it set itself up again.
	InstanceID string
	Hostname   string
	// User to make and whose Keys to authorize at the first boot.
	User string
	Keys []string
	// MAC address of its network interface; empty without one.
	MAC  string
	CPUs int
	// Memory in bytes.
	Memory int64
	// Console gets what is written to the serial console.
	Console io.Writer
	// PowerOff is called when the guest shuts down.
	PowerOff func()
	Clock    clock.Clock
}

// System is a running guest. Its methods may be called from many goroutines.
type System struct {
	cfg    Config
	disk   *Disk
	bootID string
	ctx    context.Context
	halt   context.CancelCauseFunc

	mu        sync.Mutex
	hostname  string
	mounts    []mount
	processes map[int]*process
	lastPID   int
	frozen    chan struct{} // closed by Thaw; nil while running
}

type mount struct {
	at string
	fs filesystem
}

// Boot starts a system from a disk. It is frozen until Thaw.
func Boot(disk *Disk, cfg Config) *System {
	boots, first := disk.boot(cfg.InstanceID)
	id := sha256.Sum256(fmt.Appendf(nil, "%s/%d", cfg.InstanceID, boots))
	ctx, halt := context.WithCancelCause(context.Background())
	s := &System{
		cfg: cfg, disk: disk, ctx: ctx, halt: halt, hostname: cfg.Hostname,
		bootID:    fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:16]),
		processes: map[int]*process{},
		lastPID:   100, // below are those that every boot starts
		frozen:    make(chan struct{}),
	}
	s.mountOwn(newTree(cfg.Memory), newTree(cfg.Memory))
	if cfg.User != "" {
		disk.addUser(cfg.User)
	}
	_ = disk.files.write("/etc/hostname", fileMode, []byte(cfg.Hostname+"\n")) // the disk may be full
	if first && len(cfg.Keys) > 0 {
		_ = s.Authorize(cfg.User, cfg.Keys) // as above
	}
	return s
}

// mountOwn mounts what every system has.
func (s *System) mountOwn(temporary, run *tree) {
	s.mounts = []mount{ // the longest paths first, see resolve
		{"/proc", s.proc()},
		{"/dev", devices{s.cfg.Console}},
		{"/sys", s.sys()},
		{"/tmp", temporary},
		{"/run", run},
		{"/", s.disk.files},
	}
}

func (s *System) proc() generated {
	return generated{
		"/cpuinfo": func() string {
			var b strings.Builder
			for i := range s.cfg.CPUs {
				fmt.Fprintf(&b, "processor\t: %d\n\n", i)
			}
			return b.String()
		},
		"/meminfo": func() string { return fmt.Sprintf("MemTotal: %d kB\n", s.cfg.Memory>>10) },
		"/mounts": func() string {
			var b strings.Builder
			for _, m := range s.mountTable() {
				if h, ok := m.fs.(hostFolder); ok {
					b.WriteString(h.describe(m.at))
				}
			}
			return b.String()
		},
		"/sys/kernel/random/boot_id": func() string { return s.bootID + "\n" },
	}
}

func (s *System) sys() generated {
	files := generated{"/block/vda/size": func() string {
		return fmt.Sprintln(s.disk.Size() / 512)
	}}
	if s.cfg.MAC != "" {
		files["/class/net/eth0/address"] = func() string { return s.cfg.MAC + "\n" }
	}
	return files
}

// Freeze makes every process stand still at its next step.
func (s *System) Freeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen == nil {
		s.frozen = make(chan struct{})
	}
}

// Thaw lets the processes go on.
func (s *System) Thaw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen != nil {
		close(s.frozen)
		s.frozen = nil
	}
}

// Halt ends every process.
func (s *System) Halt() { s.halt(ErrHalted) }

// Mounted tells whether a directory of the host is mounted.
func (s *System) Mounted() bool {
	return slices.ContainsFunc(s.mountTable(), func(m mount) bool {
		_, ok := m.fs.(hostFolder)
		return ok
	})
}

func (s *System) mountTable() []mount {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mounts
}

// Mount mounts a directory of the real host, with the directories that lead to
// it. What is mounted there already is replaced.
func (s *System) Mount(at, hostPath string, readOnly bool) error {
	at = path.Clean(at)
	if at == "/" {
		return syscall.EBUSY
	}
	if err := s.mkdirAll(at); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := slices.DeleteFunc(slices.Clone(s.mounts), func(m mount) bool { return m.at == at })
	i, _ := slices.BinarySearchFunc(kept, at, func(m mount, at string) int {
		return len(at) - len(m.at)
	})
	s.mounts = slices.Insert(kept, i, mount{at, hostFolder{hostPath, readOnly}})
	return nil
}

func (s *System) mkdirAll(dir string) error {
	if dir == "/" {
		return nil
	}
	if err := s.mkdirAll(path.Dir(dir)); err != nil {
		return err
	}
	f, name := s.resolve(dir)
	if info, err := f.stat(name); err == nil && info.Dir {
		return nil
	}
	return f.mkdir(name)
}

// resolve finds the file system of an absolute path and the path in it: the
// first mount that matches, because the longest paths come first.
func (s *System) resolve(name string) (filesystem, string) {
	name = path.Clean(name)
	for _, m := range s.mountTable() {
		if m.at == "/" {
			return m.fs, name
		}
		if name == m.at {
			return m.fs, "/"
		}
		if rest, ok := strings.CutPrefix(name, m.at+"/"); ok {
			return m.fs, "/" + rest
		}
	}
	panic("no root file system") // Boot mounts one, and nothing replaces it
}

// Stat describes a file.
func (s *System) Stat(name string) (Info, error) {
	f, name := s.resolve(name)
	return f.stat(name)
}

// ReadFile returns the content of a regular file and its description.
func (s *System) ReadFile(name string) ([]byte, Info, error) {
	f, name := s.resolve(name)
	info, err := f.stat(name)
	switch {
	case err != nil:
		return nil, info, err
	case info.Dir:
		return nil, info, syscall.EISDIR
	case info.Device:
		return nil, info, syscall.ENODEV
	}
	data, err := f.read(name)
	return data, info, err
}

// openFile opens a regular file for reading.
func (s *System) openFile(name string) (io.ReadCloser, Info, error) {
	f, in := s.resolve(name)
	if h, ok := f.(hostFolder); ok {
		return h.open(in)
	}
	data, info, err := s.ReadFile(name)
	return io.NopCloser(bytes.NewReader(data)), info, err
}

// WriteFile replaces a file as a whole. It takes data over.
func (s *System) WriteFile(name string, mode uint32, data []byte) error {
	f, name := s.resolve(name)
	return f.write(name, mode, data)
}

// Authorize replaces the ssh keys of a user.
func (s *System) Authorize(name string, keys []string) error {
	u, ok := s.disk.user(name)
	if !ok {
		return ErrNoUser
	}
	dir := path.Join(u.home, ".ssh")
	if err := s.mkdirAll(dir); err != nil {
		return err
	}
	var b strings.Builder
	for _, k := range keys {
		b.WriteString(k + "\n")
	}
	return s.WriteFile(dir+"/authorized_keys", 0o600, []byte(b.String()))
}

func (s *System) name() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hostname
}

func (s *System) rename(hostname string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hostname = hostname
}

// sleep waits for d of the system's time, or for the context.
func (s *System) sleep(ctx context.Context, d time.Duration) {
	t := s.cfg.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
	case <-ctx.Done():
	}
}
