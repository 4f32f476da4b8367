package worker

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// nobody is the user and the group that have no rights.
	nobody = 65534
	// maxMemory bounds the address space, in bytes: what Go reserves, and more than
	// the reader keeps.
	maxMemory = 4 << 30
)

// executable is the running program, also when its file was replaced meanwhile.
func executable() string { return "/proc/self/exe" }

// confine gives up the rights of this process.
func confine() error {
	limits := map[int]uint64{
		unix.RLIMIT_AS: maxMemory, unix.RLIMIT_CPU: maxCPU, unix.RLIMIT_FSIZE: 0, unix.RLIMIT_CORE: 0,
	}
	for resource, value := range limits {
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: value, Max: value}); err != nil {
			return fmt.Errorf("limit %d: %w", resource, err)
		}
	}
	if os.Geteuid() == 0 {
		if err := dropUser(); err != nil {
			return err
		}
	}
	// A thread has this for itself, and needs it for the filter, which hands it on to
	// the others.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	return filterCalls()
}

// dropUser makes all threads of this process run as nobody.
func dropUser() error {
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("groups: %w", err)
	}
	if err := syscall.Setresgid(nobody, nobody, nobody); err != nil {
		return fmt.Errorf("group: %w", err)
	}
	if err := syscall.Setresuid(nobody, nobody, nobody); err != nil {
		return fmt.Errorf("user: %w", err)
	}
	if os.Geteuid() != nobody || os.Getegid() != nobody {
		return fmt.Errorf("it still runs as %d:%d", os.Geteuid(), os.Getegid())
	}
	return nil
}
