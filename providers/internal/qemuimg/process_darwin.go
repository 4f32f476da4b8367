package qemuimg

import (
	"context"
	"os/exec"
	"syscall"
)

// shell is one whose ulimit -f counts as POSIX says; not each version of bash
// does, which is /bin/sh here.
const shell = "/bin/dash"

// command is a run of qemu-img. A process's limits can be set by itself only, so
// a shell sets them and becomes qemu-img. It may outlive this process, as long as
// its work takes.
func command(ctx context.Context, path string, j job) *exec.Cmd {
	cmd := exec.CommandContext(ctx, shell, underLimits(path, j)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// limit has nothing left to do.
func limit(int, job) {}
