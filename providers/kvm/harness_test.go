//go:build linux

package kvm_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/google/uuid"
	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/kvm"
)

// The tests of this package need a libvirt of their own, real guests and real
// networks: run them by
//
//	hack/private-libvirt -- go test ./providers/kvm
//
// Elsewhere they are skipped; with SANDBOXD_REQUIRE_LIBVIRT=1 they fail.
// SANDBOXD_TINY_IMAGE names the image made by images/tiny/build, if it is not
// in the cache directory.

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// requireLibvirt skips a test that has no libvirt of its own.
func requireLibvirt(t testing.TB) {
	t.Helper()
	reason := ""
	if os.Getenv("SANDBOXD_PRIVATE_LIBVIRT") != "1" {
		reason = "there is no private libvirt: run the test by hack/private-libvirt -- go test ./providers/kvm"
	} else if _, err := os.Stat(tinyImage(t)); err != nil {
		reason = "there is no tiny image: run images/tiny/build " + tinyImage(t)
	}
	switch {
	case reason == "":
	case os.Getenv("SANDBOXD_REQUIRE_LIBVIRT") == "1":
		t.Fatal(reason)
	default:
		t.Skip(reason)
	}
}

func tinyImage(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("SANDBOXD_TINY_IMAGE"); path != "" {
		return path
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(cache, "sandboxd", "tiny.qcow2")
}

// tinySource is the image with its digest.
func tinySource(t testing.TB) v1.DiskSource {
	t.Helper()
	path, err := filepath.EvalSymlinks(tinyImage(t))
	if err != nil {
		t.Fatal(err)
	}
	return v1.DiskSource{Path: path, SHA256: digestOf(t, path)}
}

func digestOf(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// host is the machine that the tests run on, with data folders of their own.
type host struct {
	t    testing.TB
	root string
	was  []string // what was there before
}

func newHost(t testing.TB) *host {
	t.Helper()
	requireLibvirt(t)
	// Not t.TempDir: QEMU's user must be able to pass through.
	root, err := os.MkdirTemp("", "sandboxd-kvm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, root: root}
	h.was = h.inventory()
	return h
}

// dataDir is an instance's.
func (h *host) dataDir(i providers.Instance) string { return filepath.Join(h.root, "data-"+string(i)) }

// open opens a provider as a new process would.
func (h *host) open(t testing.TB, i providers.Instance) *kvm.Provider {
	t.Helper()
	p, err := kvm.New(kvm.Options{
		Instance: i, DataDir: h.dataDir(i), DownloadStall: 10 * time.Second,
		Logger: funcr.New(func(prefix, args string) { t.Log(prefix, args) }, funcr.Options{Verbosity: 1}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// folder makes a directory that QEMU may use.
func (h *host) folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(h.root, "folder-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// run runs a program of the host and returns its output.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// inventory lists what sandboxd could have left on the host.
func (h *host) inventory() []string {
	h.t.Helper()
	var all []string
	add := func(kind string, names ...string) {
		for _, n := range names {
			all = append(all, kind+" "+n)
		}
	}
	add("domain", strings.Fields(run(h.t, "virsh", "list", "--all", "--name"))...)
	add("network", strings.Fields(run(h.t, "virsh", "net-list", "--all", "--name"))...)
	for line := range strings.Lines(run(h.t, "ip", "-br", "link")) {
		name, _, _ := strings.Cut(strings.Fields(line)[0], "@")
		add("link", name)
	}
	for line := range strings.Lines(run(h.t, "nft", "list", "tables")) {
		if strings.Contains(line, "sandboxd") {
			add("nft", strings.TrimSpace(line))
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, p := range procs {
		name, err := os.ReadFile(p)
		if err == nil && (strings.HasPrefix(string(name), "qemu") || strings.HasPrefix(string(name), "dnsmasq")) {
			cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "cmdline"))
			if len(cmdline) > 0 { // not a zombie that waits to be reaped
				add("process", strings.TrimSpace(string(name))+" "+filepath.Base(filepath.Dir(p)))
			}
		}
	}
	saved, _ := filepath.Glob("/var/lib/libvirt/qemu/save/*")
	add("file", saved...)
	slices.Sort(all)
	return all
}

// audit lists what is there that was not before and does not go: libvirt does not wait
// for the end of the DHCP servers that it ends.
func (h *host) audit(t testing.TB) []string {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if left := h.added(t); len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// added lists what is there at this moment that was not before.
func (h *host) added(t testing.TB) []string {
	t.Helper()
	h.t = t
	left := slices.DeleteFunc(h.inventory(), func(s string) bool { return slices.Contains(h.was, s) })
	dirs, _ := filepath.Glob(filepath.Join(h.root, "data-*", "*", "*"))
	return append(left, dirs...)
}

// pid of a machine's QEMU.
func pid(t testing.TB, id types.UID) int {
	t.Helper()
	name := strings.TrimSpace(run(t, "virsh", "domname", string(id)))
	b, err := os.ReadFile("/run/libvirt/qemu/" + name + ".pid")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// ids that differ from test to test.
func newID() types.UID { return types.UID(uuid.NewString()) }

// bootLimit stops the wait for a guest that hangs.
const bootLimit = 10 * time.Minute

// eventually waits for something that needs its time.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(bootLimit)
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
