package worker

import (
	"fmt"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// calls are the system calls that reading files that are open, and Go itself, need.
// None opens a file, makes a process, or reaches another one or a network.
var calls = append([]uintptr{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_PREAD64, unix.SYS_CLOSE, unix.SYS_FSTAT, unix.SYS_LSEEK,
	unix.SYS_FCNTL, unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MPROTECT, unix.SYS_BRK,
	unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_SCHED_YIELD,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETRANDOM,
	unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, unix.SYS_PPOLL,
	unix.SYS_RESTART_SYSCALL, unix.SYS_SCHED_GETAFFINITY, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ,
}, archCalls...)

// threadFlags are those that clone(2) must have: a thread of this process, and no
// process of its own.
const threadFlags = unix.CLONE_VM | unix.CLONE_THREAD | unix.CLONE_SIGHAND

const (
	retAllow = 0x7fff0000
	retKill  = 0x80000000 // the whole process
	retDeny  = 0x00050000 | uint32(unix.EPERM)
	retNone  = 0x00050000 | uint32(unix.ENOSYS)
	// Offsets in struct seccomp_data.
	dataCall = 0
	dataArch = 4
	dataArg0 = 16
)

// filterCalls leaves all threads of this process the system calls of the list. On a
// kernel that has no such filters it does nothing.
func filterCalls() error {
	if arch == 0 {
		return nil
	}
	program := filter()
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno == unix.ENOSYS || errno == unix.EINVAL {
		return nil
	}
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}

// filter is the program of the filter:
//
//	another architecture ─▶ kill
//	clone ─▶ with all the flags of a thread ─▶ allow
//	clone3, whose flags no filter sees ─▶ ENOSYS: libraries use clone then
//	tgkill ─▶ of this process ─▶ allow
//	in the list ─▶ allow
//	else ─▶ EPERM
func filter() []unix.SockFilter {
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	equal := func(k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jt: yes, Jf: no}
	}
	result := func(k uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k}
	}
	program := []unix.SockFilter{
		load(dataArch), equal(arch, 1, 0), result(retKill),
		load(dataCall), equal(unix.SYS_CLONE, 0, 5),
		load(dataArg0),
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: threadFlags},
		equal(threadFlags, 0, 1), result(retAllow),
		result(retDeny),
		equal(unix.SYS_CLONE3, 0, 1), result(retNone),
		equal(unix.SYS_TGKILL, 0, 4),
		load(dataArg0), equal(uint32(os.Getpid()), 0, 1), result(retAllow),
		result(retDeny),
	}
	for _, call := range slices.Compact(slices.Sorted(slices.Values(calls))) {
		program = append(program, equal(uint32(call), 0, 1), result(retAllow))
	}
	return append(program, result(retDeny))
}
