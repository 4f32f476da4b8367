package private

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// VirtualBox 7.2 crashes now and then on a busy host, in threads of its own, and takes its
// machines along. No test can do anything about that; it can be told from a fault of ours:
//
//	WatchVirtualBox ──▶ a VBoxSVC is gone while a machine runs ──▶ SANDBOXD_VIRTUALBOX_CRASHES: the test's name
//	                       unless a test has Killed it                 hack/test-virtualbox runs it again if it failed

// crashesFile names the file that gets the names of tests.
const crashesFile = "SANDBOXD_VIRTUALBOX_CRASHES"

// killed are processes that tests have ended themselves.
var killed sync.Map

// Killed notes that a test ends processes itself. It is called before.
func Killed(pids ...int) {
	for _, pid := range pids {
		killed.Store(pid, true)
	}
}

// Crashed notes that VirtualBox crashed during a test.
func Crashed(t testing.TB, what string) {
	t.Helper()
	t.Logf("VirtualBox crashed by itself: %s", what)
	path := os.Getenv(crashesFile)
	if path == "" {
		return
	}
	name, _, _ := strings.Cut(t.Name(), "/")
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, name)
		_ = f.Close()
	}
	if err != nil {
		t.Errorf("the crash cannot be noted: %v", err)
	}
}

// WatchVirtualBox notes when VBoxSVC crashes, until the test is over and cleaned up.
func WatchVirtualBox(t testing.TB) {
	over, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		const look = 100 * time.Millisecond
		tick := time.NewTicker(look)
		defer tick.Stop()
		last := see(sight{})
		for {
			select {
			case <-over:
				return
			case <-tick.C:
			}
			now := see(last)
			for _, pid := range gone(last, now) {
				if _, ours := killed.Load(pid); !ours {
					Crashed(t, "VBoxSVC, process "+strconv.Itoa(pid)+", is gone")
				}
			}
			last = now
		}
	}()
	t.Cleanup(func() { close(over); <-watched })
}

// sight is what runs of VirtualBox: services, machines, and whether one of these has been
// there for a while, and so holds its service, which ends some seconds after it is let go.
type sight struct {
	services, machines map[int]bool
	held               bool
}

// see looks at all processes.
func see(last sight) sight {
	s := sight{services: map[int]bool{}, machines: map[int]bool{}}
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		b, err := os.ReadFile(path)
		program, _, _ := strings.Cut(string(b), "\x00")
		pid, numberErr := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil || numberErr != nil {
			continue
		}
		switch filepath.Base(program) {
		case "VBoxSVC":
			s.services[pid] = true
		case "VBoxHeadless":
			s.machines[pid] = true
			s.held = s.held || last.machines[pid]
		}
	}
	return s
}

// gone lists the services that are not there any more although a machine held them.
func gone(last, now sight) (pids []int) {
	for pid := range last.services {
		if last.held && !now.services[pid] {
			pids = append(pids, pid)
		}
	}
	return pids
}
