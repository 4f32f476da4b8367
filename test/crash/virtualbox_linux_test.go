package crash_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/test/private"
)

// onVirtualBox is a host with a private VirtualBox, on which others live too. Its
// machines halt at once: they have no guests.
type onVirtualBox struct {
	dir, victim string
	before      []string
}

// theirMachine is that of others.
const theirMachine = "default-box-theirs"

func (h *onVirtualBox) begin(d *death, _ *journal) (*plane, error) {
	return spawn(string(v1.ProviderVirtualBox), h.dir, h.victim, d)
}

func (h *onVirtualBox) store() string { return filepath.Join(h.dir, "store.db") }

func (h *onVirtualBox) was() []string { return h.before }

// manage runs VBoxManage to look at something, again where VBoxSVC ended while it
// connected.
func manage(ctx context.Context, args ...string) (string, error) {
	for tries := 1; ; tries++ {
		out, err := command(ctx, os.Getenv("VBOX_MANAGE_PATH"), args...)
		if err == nil || tries == 10 || !strings.Contains(err.Error(), "Failed to create the VirtualBox object!") {
			return out, err
		}
		time.Sleep(time.Second)
	}
}

// things implements ground by looking at VirtualBox and at the files, without asking
// the provider. A golden machine is its image's.
func (h *onVirtualBox) things(ctx context.Context) (all []providers.Resource, err error) {
	list, err := manage(ctx, "list", "vms")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(list) { // "NAME" {UUID}
		name, id, _ := strings.Cut(strings.TrimSpace(line), "\" {")
		name, id = strings.TrimPrefix(name, "\""), strings.TrimSuffix(id, "}")
		if name == theirMachine {
			continue
		}
		info, err := manage(ctx, "showvminfo", id, "--machinereadable")
		if err != nil {
			return nil, err
		}
		_, config, _ := strings.Cut(info, `CfgFile="`)
		config, _, _ = strings.Cut(config, `"`)
		relative, err := filepath.Rel(filepath.Join(h.dir, "data"), config)
		part := strings.Split(relative, "/")
		r := providers.Resource{Kind: providers.ResourceMachine, ID: id, Owners: []types.UID{types.UID(id)}, Description: "machine " + name}
		if err == nil && len(part) > 2 && part[0] == "images" {
			r.Kind, r.Owners = "golden machine", []types.UID{types.UID(part[1])}
		}
		all = append(all, r)
	}
	files, err := filesOf(filepath.Join(h.dir, "data"))
	return append(all, files...), err
}

// others implements ground.
func (h *onVirtualBox) others(ctx context.Context) (lines []string, err error) {
	out, err := manage(ctx, "showvminfo", theirMachine, "--machinereadable")
	for line := range strings.Lines(cmpErr(out, err)) {
		// Without what a VBoxSVC that was started anew tells in another way of a machine
		// that nobody has touched.
		if !strings.HasPrefix(line, "VMStateChangeTime=") && !strings.HasPrefix(line, "localhostReachable=") {
			lines = append(lines, "machine: "+line)
		}
	}
	for _, pattern := range []string{"theirs/*/*.vbox", "theirs/*.vdi"} {
		files, _ := filepath.Glob(filepath.Join(h.dir, pattern))
		for _, f := range files {
			b, err := os.ReadFile(f)
			lines = append(lines, fmt.Sprintf("file %s %x %v", f, sha256.Sum256(b), err))
		}
	}
	interfaces, err := manage(ctx, "list", "hostonlyifs")
	return append(lines, "host-only interfaces: "+cmpErr(interfaces, err)), nil
}

// populate makes a machine of others, with a disk.
func (h *onVirtualBox) populate(ctx context.Context) error {
	theirs := filepath.Join(h.dir, "theirs")
	for _, args := range [][]string{
		{"createvm", "--name", theirMachine, "--basefolder", theirs, "--register"},
		{"createmedium", "disk", "--filename", filepath.Join(theirs, "disk.vdi"), "--size", "4"},
		{"storagectl", theirMachine, "--name", "sata", "--add", "sata"},
		{"storageattach", theirMachine, "--storagectl", "sata", "--port", "0", "--type", "hdd", "--medium", filepath.Join(theirs, "disk.vdi")},
		{"setextradata", theirMachine, "sandboxd/instance", string(otherOne)},
	} {
		if _, err := manage(ctx, args...); err != nil {
			return err
		}
	}
	lines, err := h.others(ctx)
	h.before = lines
	return err
}

func (h *onVirtualBox) depopulate() {
	_, _ = manage(context.Background(), "unregistervm", theirMachine, "--delete")
}

// machine implements host.
func (h *onVirtualBox) machine(ctx context.Context, id types.UID) (m providers.Machine, err error) {
	out, err := manage(ctx, "showvminfo", string(id), "--machinereadable")
	for state, power := range map[string]providers.Power{
		"running": providers.PowerRunning, "saved": providers.PowerSaved, "poweroff": providers.PowerOff,
	} {
		if strings.Contains(out, `VMState="`+state+`"`) {
			m.Power = power
		}
	}
	return m, err
}

var errNoGuest = errors.New("there is no guest")

func (h *onVirtualBox) read(context.Context, types.UID, string) (string, error) {
	return "", errNoGuest
}

func (h *onVirtualBox) write(context.Context, types.UID, string, string) error { return errNoGuest }

// TestVirtualBox kills daemons, and VirtualBox's service, on a private VirtualBox.
func TestVirtualBox(t *testing.T) {
	private.Require(t, "VIRTUALBOX", "there is no private VirtualBox: run the test by hack/private-virtualbox -- go test ./test/crash")
	h := &onVirtualBox{}
	defer h.depopulate()
	fresh := func(t *testing.T, victim string) ground {
		t.Helper()
		h.depopulate()
		h.dir, h.victim = folder(t), victim
		disk := make([]byte, 2<<20)
		copy(disk, []byte{0xfa, 0xf4, 0xeb, 0xfd}) // cli; hlt; jmp to the hlt
		disk[510], disk[511] = 0x55, 0xaa
		must(t, os.WriteFile(filepath.Join(h.dir, "golden.raw"), disk, 0o644))
		must(t, h.populate(t.Context()))
		return h
	}
	halting := func(name string) operation {
		op := realOperation(name)
		image := goldenImage("golden")
		image.Spec.Source.Disk = &v1.DiskSource{Path: "golden.raw", Format: v1.DiskFormatRaw}
		op.before = slices.Clone(op.before)
		op.before[0].write = create(image)
		return op
	}
	svc := halting("create, no network")
	svc.restarts = true // machines end with VirtualBox's service
	sampleAll(t, "on VirtualBox", fresh, []sample{
		{op: halting("create"), points: 3},
		{op: halting("suspend"), points: 2},
		{op: halting("delete"), points: 2},
		{op: svc, points: 1, victim: `kill -9 $("$SANDBOXD_VIRTUALBOX_PIDS" VBoxSVC)`, as: "VBoxSVC in create"},
	})
}
