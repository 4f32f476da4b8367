package worker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// probe is what TestConfined runs this program as: it gives up its rights and tells
// what it can still do.
const probe = "probe-confined"

func probeConfined() int {
	before, err := os.Open("/dev/null")
	if err != nil {
		return 2
	}
	if err := confine(); err != nil {
		fmt.Println("confine:", err)
		return 2
	}
	if _, err := before.Stat(); err != nil {
		fmt.Println("a file that was open cannot be used:", err)
	}
	for what, try := range map[string]func() error{
		"open a file":      func() error { _, err := os.Open("/etc/hostname"); return err },
		"make a file":      func() error { return os.WriteFile("/tmp/confined", nil, 0o600) },
		"listen":           func() error { _, err := net.Listen("tcp", "127.0.0.1:0"); return err },
		"run a program":    func() error { return exec.Command("/bin/true").Run() },
		"signal another":   func() error { return syscall.Kill(os.Getppid(), 0) },
		"trace":            func() error { return unix.PtraceAttach(os.Getppid()) },
		"become root":      func() error { return syscall.Setuid(0) },
		"make a namespace": func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
	} {
		if err := try(); !errors.Is(err, syscall.EPERM) {
			fmt.Printf("it can %s: %v\n", what, err)
		}
	}
	fmt.Printf("user %d group %d\n", os.Getuid(), os.Getgid())
	return 0
}

func TestConfined(t *testing.T) {
	if arch == 0 {
		t.Skip("no system calls are filtered on this processor")
	}
	out, err := exec.Command(os.Args[0], probe).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := fmt.Sprintf("user %d group %d", os.Getuid(), os.Getgid())
	if os.Getuid() == 0 {
		want = "user 65534 group 65534"
	}
	if got := strings.TrimSpace(string(out)); got != want {
		t.Errorf("got\n%s\nwant %s", got, want)
	}
}
