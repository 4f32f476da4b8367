//go:build linux && amd64

package accel

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctls of KVM that the probe uses (linux/kvm.h).
const (
	kvmGetAPIVersion       = 0xae00
	kvmCreateVM            = 0xae01
	kvmGetVCPUMmapSize     = 0xae04
	kvmCreateVCPU          = 0xae41
	kvmSetUserMemoryRegion = 0x4020ae46
	kvmRun                 = 0xae80
	kvmSetRegs             = 0x4090ae82
	kvmGetSregs            = 0x8138ae83
	kvmSetSregs            = 0x4138ae84

	apiVersion = 12
	exitIO     = 2
	exitHLT    = 5
)

// Offsets into the structures that KVM shares, in bytes.
const (
	sregsSize     = 312
	sregsCSBase   = 0
	sregsCSSel    = 12
	regsSize      = 144
	regsRIP       = 128
	regsRFLAGS    = 136
	runExitReason = 8
)

// program adds 2 and 3, writes the sum to port 0x10 and halts, in real mode.
var program = []byte{0xb0, 0x02, 0x04, 0x03, 0xe6, 0x10, 0xf4}

const (
	loadAt     = 0x1000
	pageSize   = 0x1000
	runTimeout = 3 * time.Second
)

// runGuest makes a machine with one virtual CPU and runs the program.
func runGuest(kvm *os.File) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine, whatever state KVM leaves it in
		done <- run(int(kvm.Fd()))
	}()
	timeout := time.NewTimer(runTimeout)
	defer timeout.Stop()
	select {
	case err := <-done:
		return err
	case <-timeout.C:
		return errors.New("the virtual CPU hangs")
	}
}

func run(kvm int) error {
	if v, err := ioctl(kvm, kvmGetAPIVersion, 0); err != nil || v != apiVersion {
		return fmt.Errorf("its API version is %d, not %d (%w)", v, apiVersion, err)
	}
	vm, err := ioctl(kvm, kvmCreateVM, 0)
	if err != nil {
		return fmt.Errorf("no machine can be made: %w", err)
	}
	defer func() { _ = unix.Close(vm) }()
	memory, err := unix.Mmap(-1, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(memory) }()
	copy(memory, program)
	region := struct {
		slot, flags          uint32
		guest, size, address uint64
	}{guest: loadAt, size: pageSize, address: uint64(uintptr(unsafe.Pointer(&memory[0])))}
	if _, err := ioctl(vm, kvmSetUserMemoryRegion, uintptr(unsafe.Pointer(&region))); err != nil {
		return fmt.Errorf("no memory can be given to a machine: %w", err)
	}
	cpu, err := ioctl(vm, kvmCreateVCPU, 0)
	if err != nil {
		return fmt.Errorf("no virtual CPU can be made: %w", err)
	}
	defer func() { _ = unix.Close(cpu) }()
	size, err := ioctl(kvm, kvmGetVCPUMmapSize, 0)
	if err != nil {
		return err
	}
	state, err := unix.Mmap(cpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(state) }()
	if err := setRegisters(cpu); err != nil {
		return fmt.Errorf("its registers cannot be set: %w", err)
	}
	return runToEnd(cpu, state)
}

func setRegisters(cpu int) error {
	var sregs [sregsSize]byte
	if _, err := ioctl(cpu, kvmGetSregs, uintptr(unsafe.Pointer(&sregs))); err != nil {
		return err
	}
	*(*uint64)(unsafe.Pointer(&sregs[sregsCSBase])) = 0
	*(*uint16)(unsafe.Pointer(&sregs[sregsCSSel])) = 0
	if _, err := ioctl(cpu, kvmSetSregs, uintptr(unsafe.Pointer(&sregs))); err != nil {
		return err
	}
	var regs [regsSize]byte
	*(*uint64)(unsafe.Pointer(&regs[regsRIP])) = loadAt
	*(*uint64)(unsafe.Pointer(&regs[regsRFLAGS])) = 2 // the bit that is always set
	_, err := ioctl(cpu, kvmSetRegs, uintptr(unsafe.Pointer(&regs)))
	return err
}

// runToEnd expects the program to write 5 to port 0x10 and then to halt.
func runToEnd(cpu int, state []byte) error {
	reason := func() uint32 { return *(*uint32)(unsafe.Pointer(&state[runExitReason])) }
	computed := false
	for range 16 {
		if _, err := ioctl(cpu, kvmRun, 0); err != nil {
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
				continue
			}
			return fmt.Errorf("the virtual CPU does not run: %w", err)
		}
		switch reason() {
		case exitIO:
			const ioDataOffset = 32 + 8 // struct kvm_run: the union follows 32 bytes; io.data_offset is its second word
			at := *(*uint64)(unsafe.Pointer(&state[ioDataOffset]))
			if at >= uint64(len(state)) || state[at] != 5 {
				return errors.New("the virtual CPU computes wrongly")
			}
			computed = true
		case exitHLT:
			if !computed {
				return errors.New("the virtual CPU halts too early")
			}
			return nil
		default:
			return fmt.Errorf("the virtual CPU stops with exit reason %d", reason())
		}
	}
	return errors.New("the virtual CPU makes no progress")
}

func ioctl(fd int, request, arg uintptr) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, arg)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}
