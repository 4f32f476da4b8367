package worker

import "golang.org/x/sys/unix"

const arch = unix.AUDIT_ARCH_X86_64

var archCalls = []uintptr{unix.SYS_EPOLL_WAIT, unix.SYS_ARCH_PRCTL, unix.SYS_POLL, unix.SYS_SETITIMER}
