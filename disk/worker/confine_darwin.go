package worker

import (
	"os"
	"syscall"
)

// nobody is the user and the group that have no rights.
const nobody = -2

// executable is the running program.
func executable() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

// confine gives up the rights of this process, as far as the system has words for
// it.
func confine() error {
	for resource, value := range map[int]uint64{syscall.RLIMIT_CPU: maxCPU, syscall.RLIMIT_FSIZE: 0, syscall.RLIMIT_CORE: 0} {
		if err := syscall.Setrlimit(resource, &syscall.Rlimit{Cur: value, Max: value}); err != nil {
			return err
		}
	}
	if os.Geteuid() != 0 {
		return nil
	}
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setgid(nobody); err != nil {
		return err
	}
	return syscall.Setuid(nobody)
}
