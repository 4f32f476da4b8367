package virtualbox_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/google/uuid"
	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/virtualbox"
	"sandboxd.dev/sandboxd/test/private"
)

// The tests of this package need a real VirtualBox of their own: run them by
//
//	hack/private-virtualbox -- go test ./providers/virtualbox
//
// Elsewhere they are skipped; with SANDBOXD_REQUIRE_VIRTUALBOX=1 they fail.

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// unless skips a test for a reason, or fails where that is not allowed.
func unless(t testing.TB, there bool, reason string) {
	t.Helper()
	switch {
	case there:
	case os.Getenv("SANDBOXD_REQUIRE_VIRTUALBOX") == "1":
		t.Fatal(reason)
	default:
		t.Skip(reason)
	}
}

// host is a VirtualBox of the test's own, with data folders of their own.
type host struct {
	root string
	was  []string // what was there before
}

func newHost(t testing.TB) *host {
	t.Helper()
	unless(t, os.Getenv("SANDBOXD_PRIVATE_VIRTUALBOX") == "1",
		"there is no private VirtualBox: run the test by hack/private-virtualbox -- go test ./providers/virtualbox")
	private.WatchVirtualBox(t)
	h := &host{root: t.TempDir()}
	h.was = h.inventory(t)
	return h
}

// open opens a provider as a new process would.
func (h *host) open(t testing.TB, i providers.Instance) *virtualbox.Provider {
	t.Helper()
	p, err := virtualbox.New(virtualbox.Options{
		Instance: i, DataDir: filepath.Join(h.root, "data-"+string(i)), Manage: os.Getenv("VBOX_MANAGE_PATH"),
		Engine: virtualbox.EngineInterpreter, Logins: login{}, DownloadStall: 10 * time.Second,
		Logger: funcr.New(func(prefix, args string) { t.Log(prefix, args) }, funcr.Options{Verbosity: 1}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// login is that of the test guest.
type login struct{}

func (login) LoginOf(context.Context, string, string, types.UID) (providers.Login, error) {
	return providers.Login{User: "root", Password: "sandbox"}, nil
}

// run runs a program of the host and returns its output.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := output(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// output bounds the program: VBoxManage may wait for ever for a VBoxSVC that died while it
// connected.
func output(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			out = append(out, exit.Stderr...)
		}
		return "", fmt.Errorf("%s %v: %w\n%s", name, args, err, out)
	}
	return string(out), nil
}

// manage runs VBoxManage, again where VBoxSVC ended while it connected: nothing was
// begun then. Who only looks does so again also when VBoxSVC, or VBoxManage itself, ended
// in the middle, or when it waits for ever for a VBoxSVC that is gone.
func manage(t testing.TB, args ...string) string {
	t.Helper()
	for tries := 1; ; tries++ {
		out, err := output(os.Getenv("VBOX_MANAGE_PATH"), args...)
		if err == nil {
			return out
		}
		if signalled(err) {
			private.Crashed(t, err.Error())
		}
		again := strings.Contains(err.Error(), "Failed to create the VirtualBox object!") || onlyLooks(args) && died(err)
		if tries == 30 || !again {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
	}
}

// onlyLooks tells whether these arguments of VBoxManage change nothing.
func onlyLooks(args []string) bool {
	return slices.Contains([]string{"list", "showvminfo", "getextradata"}, args[0]) || len(args) > 2 && slices.Contains([]string{"get", "list"}, args[2])
}

// signalled tells whether VBoxManage was ended by a signal.
func signalled(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() < 0
}

// died tells whether it was, or says that VBoxSVC ended.
func died(err error) bool {
	return signalled(err) || strings.Contains(err.Error(), "Code NS_ERROR_ABORT (") || strings.Contains(err.Error(), "Code NS_ERROR_CALL_FAILED (")
}

// tryManage runs VBoxManage where it may fail. When VBoxSVC dies while it
// connects, it may wait for ever.
func tryManage(args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return exec.CommandContext(ctx, os.Getenv("VBOX_MANAGE_PATH"), args...).Run()
}

// inventory lists what sandboxd could have left.
func (h *host) inventory(t testing.TB) []string {
	t.Helper()
	var all []string
	for line := range strings.Lines(manage(t, "list", "vms")) {
		all = append(all, "machine "+strings.TrimSpace(line))
	}
	for line := range strings.Lines(manage(t, "list", "hdds")) {
		if strings.HasPrefix(line, "Location:") {
			all = append(all, "disk "+strings.TrimSpace(line))
		}
	}
	for line := range strings.Lines(manage(t, "list", "dvds")) {
		if strings.HasPrefix(line, "Location:") {
			all = append(all, "dvd "+strings.TrimSpace(line))
		}
	}
	for _, pid := range pids("VBoxHeadless") {
		all = append(all, "process VBoxHeadless "+strconv.Itoa(pid))
	}
	return all
}

// audit lists what is there now that was not before.
func (h *host) audit(t testing.TB) []string {
	t.Helper()
	return h.settled(t, 0)
}

// settled waits until no more than so many things are there that were not
// before, and lists them: the process of a machine that was powered off ends a
// little later than the machine.
func (h *host) settled(t testing.TB, most int) []string {
	t.Helper()
	end := time.Now().Add(time.Minute)
	for {
		left := h.added(t)
		if len(left) <= most || time.Now().After(end) {
			return left
		}
		time.Sleep(time.Second)
	}
}

// added lists what is there at this moment that was not before.
func (h *host) added(t testing.TB) []string {
	t.Helper()
	left := slices.DeleteFunc(h.inventory(t), func(s string) bool { return slices.Contains(h.was, s) })
	dirs, _ := filepath.Glob(filepath.Join(h.root, "data-*", "*", "*"))
	return append(left, dirs...)
}

// pids lists the processes that run a program and have all of these arguments.
func pids(program string, args ...string) []int {
	var found []int
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range procs {
		b, err := os.ReadFile(path)
		argv := strings.Split(string(b), "\x00")
		has := func(a string) bool { return slices.Contains(argv, a) }
		if err != nil || filepath.Base(argv[0]) != program || slices.ContainsFunc(args, func(a string) bool { return !has(a) }) {
			continue
		}
		if n, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			found = append(found, n)
		}
	}
	return found
}

// kill ends the processes that run a program with these arguments.
func kill(t testing.TB, program string, args ...string) {
	t.Helper()
	found := pids(program, args...)
	if len(found) == 0 {
		t.Fatalf("no %s %v runs", program, args)
	}
	end(t, found)
}

// end kills processes, of which some may just be ending.
func end(t testing.TB, found []int) {
	t.Helper()
	private.Killed(found...)
	for _, pid := range found {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
}

// haltDisk is a disk whose boot sector stops the processor: a machine that runs,
// quickly and quietly.
func haltDisk(t testing.TB) v1.DiskSource {
	t.Helper()
	b := make([]byte, 2<<20)
	copy(b, []byte{0xfa, 0xf4, 0xeb, 0xfd}) // cli; hlt; jmp to the hlt
	b[510], b[511] = 0x55, 0xaa
	path := filepath.Join(t.TempDir(), "halt.raw")
	must(t, os.WriteFile(path, b, 0o644))
	sum := sha256.Sum256(b)
	return v1.DiskSource{Path: path, SHA256: hex.EncodeToString(sum[:])}
}

// guestImage is the disk of a guest with Guest Additions, made by
// images/guestadditions/build: SANDBOXD_GUESTADDITIONS_IMAGE names it, if it is
// not in the cache directory.
func guestImage(t testing.TB) v1.DiskSource {
	t.Helper()
	path := os.Getenv("SANDBOXD_GUESTADDITIONS_IMAGE")
	if path == "" {
		cache, err := os.UserCacheDir()
		must(t, err)
		path = filepath.Join(cache, "sandboxd", "guestadditions.qcow2")
	}
	path, err := filepath.EvalSymlinks(path)
	unless(t, err == nil, "there is no guest with Guest Additions: run images/guestadditions/build ~/.cache/sandboxd/guestadditions.qcow2")
	return v1.DiskSource{Path: path, SHA256: digestOf(t, path)}
}

func digestOf(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	must(t, err)
	return hex.EncodeToString(sum.Sum(nil))
}

// newID differs from test to test.
func newID() types.UID { return types.UID(uuid.NewString()) }

// limit stops the wait for something that hangs.
const limit = 5 * time.Minute

// eventually waits for something that needs its time.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// must fails the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// remove deletes a machine until it is gone.
func remove(t testing.TB, p providers.Provider, id types.UID) {
	t.Helper()
	for {
		switch err := p.DeleteMachine(context.Background(), id); {
		case errors.Is(err, providers.ErrNotFound):
			return
		case err != nil:
			t.Errorf("delete: %v", err)
			return
		}
	}
}

// settingsOf is what VirtualBox says of somebody's machine, without what a VBoxSVC
// that was started anew tells in another way of a machine that nobody has touched:
// the time since when it is off, without its fraction, and whether it reaches the
// host's loopback, of which a definition holds nothing while it is the default.
func settingsOf(t testing.TB, id string) string {
	t.Helper()
	var kept strings.Builder
	for line := range strings.Lines(manage(t, "showvminfo", id, "--machinereadable")) {
		if !strings.HasPrefix(line, "VMStateChangeTime=") && !strings.HasPrefix(line, "localhostReachable=") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}
