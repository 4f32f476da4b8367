package qemuimg

import (
	"context"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// command is a run of qemu-img that ends with this process.
func command(ctx context.Context, path string, j job) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, j.args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// limit gives a process that has just started the limits of its job.
func limit(pid int, j job) {
	for resource, value := range map[int]uint64{unix.RLIMIT_AS: j.memory, unix.RLIMIT_CPU: j.cpu, unix.RLIMIT_FSIZE: j.size} {
		if value > 0 { // the process may have ended already
			_ = unix.Prlimit(pid, resource, &unix.Rlimit{Cur: value, Max: value}, nil)
		}
	}
}
