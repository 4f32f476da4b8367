package kubeapiserver_test

import (
	"os/exec"
	"syscall"
)

// endWithParent ends a process when this one ends, however it does.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
