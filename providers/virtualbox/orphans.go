package virtualbox

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"k8s.io/apimachinery/pkg/types"
)

// endOrphans ends machines of ours that VBoxSVC was starting when it died. Such a
// process has inherited VBoxSVC's sockets and waits for it for ever; so does
// everybody who calls VBoxManage, because it is those sockets that a new VBoxSVC
// would be reached by. The machine is lost in any case. Where there is no /proc,
// nothing is found.
//
//	VBoxSVC ──▶ VBoxHeadless --comment … --startvm UUID    its parent, as long as it lives
func (p *Provider) endOrphans() {
	ours, err := p.data.machineIDs()
	if err != nil {
		return
	}
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		dir := filepath.Dir(path)
		id, ok := startedBySVC(dir)
		if !ok || !slices.Contains(ours, id) || parentIs(dir, "VBoxSVC") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err == nil || !errors.Is(err, syscall.ESRCH) {
			p.log.Info("a machine whose VBoxSVC has died holds VirtualBox up and is ended", "machine", id, "process", pid, "error", errorText(err))
		}
	}
}

// errorText is an error in a log; empty when there is none.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// startedBySVC tells which machine a process runs, if VBoxSVC has started it.
func startedBySVC(dir string) (types.UID, bool) {
	b, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	args := strings.Split(string(b), "\x00")
	if err != nil || !strings.HasPrefix(filepath.Base(args[0]), "VBoxHeadless") {
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
