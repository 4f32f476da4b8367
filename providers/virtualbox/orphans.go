package virtualbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// A machine's process has inherited the sockets of VBoxSVC and of its message
// daemon. Left behind when these end, it keeps everybody who calls VBoxManage
// waiting, because it is those sockets that new ones would be reached by. Where there
// is no /proc, none is found.
//
//	VBoxSVC ──▶ VBoxHeadless --comment … --startvm UUID    its parent, as long as it lives

const (
	// endsIn is how long the process of a machine may take to end that VirtualBox has
	// forgotten: milliseconds, but some wait for ever for a guest session that was
	// under way when they were powered off.
	endsIn = 3 * time.Second
	// endPause is between two looks for it.
	endPause = 50 * time.Millisecond
)

// process is a running VBoxHeadless that VBoxSVC has started.
type process struct {
	pid int
	dir string // in /proc
	id  types.UID
}

// endOrphans ends machines of ours that VBoxSVC was starting when it died, and
// what is left of others whose VBoxSVC is gone. They are lost in any case.
func (p *Provider) endOrphans() {
	ours, err := p.data.machineIDs()
	if err != nil {
		return
	}
	for _, q := range startedBySVC() {
		if parentIs(q.dir, "VBoxSVC") || !slices.Contains(ours, q.id) && !p.uses(q) {
			continue
		}
		p.kill(q, "a machine whose VBoxSVC has died holds VirtualBox up and is ended")
	}
}

// endProcess ends what is left of a machine's process. VirtualBox does not have the
// machine any more.
func (p *Provider) endProcess(ctx context.Context, id types.UID) error {
	for begun := time.Now(); ; {
		left := slices.DeleteFunc(startedBySVC(), func(q process) bool { return q.id != id || !p.uses(q) })
		if len(left) == 0 {
			return nil
		}
		if time.Since(begun) > endsIn {
			for _, q := range left {
				p.kill(q, "the process of a machine that was deleted does not end, and is ended")
			}
			return nil
		}
		if err := pause(ctx, endPause); err != nil {
			return err
		}
	}
}

func (p *Provider) kill(q process, why string) {
	if err := syscall.Kill(q.pid, syscall.SIGKILL); err == nil || !errors.Is(err, syscall.ESRCH) {
		p.log.Info(why, "machine", q.id, "process", q.pid, "error", errorText(err))
	}
}

// uses tells whether a process has a file of our machines open, as each has its log.
// VirtualBox may have another root directory than we have: then its paths end in ours.
func (p *Provider) uses(q process) bool {
	root, err := filepath.EvalSymlinks(p.data.Machines())
	if err != nil {
		return false
	}
	links, _ := filepath.Glob(filepath.Join(q.dir, "fd", "*"))
	return slices.ContainsFunc(links, func(link string) bool {
		to, err := os.Readlink(link)
		return err == nil && strings.Contains(to, root+string(filepath.Separator))
	})
}

// errorText is an error in a log; empty when there is none.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// startedBySVC lists the machines' processes that VBoxSVC has started.
func startedBySVC() []process {
	var list []process
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil { // it has ended
			continue
		}
		dir := filepath.Dir(path)
		pid, err := strconv.Atoi(filepath.Base(dir))
		if id, ok := machineOf(strings.Split(string(b), "\x00")); ok && err == nil {
			list = append(list, process{pid, dir, id})
		}
	}
	return list
}

// machineOf tells which machine a command runs, if VBoxSVC has started it.
func machineOf(args []string) (types.UID, bool) {
	if !strings.HasPrefix(filepath.Base(args[0]), "VBoxHeadless") {
		return "", false
	}
	i := slices.Index(args, "--startvm")
	if i < 0 || i+1 >= len(args) || !slices.Contains(args[:i], "--comment") {
		return "", false
	}
	return types.UID(args[i+1]), true
}

// parentIs tells whether a process is the child of a program.
func parentIs(dir, program string) bool {
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return true // it has just ended
	}
	for line := range strings.Lines(string(status)) {
		parent, ok := strings.CutPrefix(line, "PPid:")
		if !ok {
			continue
		}
		name, err := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(parent), "comm"))
		return err == nil && strings.TrimSpace(string(name)) == program
	}
	return true
}
