package crash_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
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

// onLibvirt is a host with a private libvirt, on which others live too.
type onLibvirt struct {
	dir, victim string
	domains     []string // of others, by name
	networks    []string
	before      []string
}

func (h *onLibvirt) begin(d *death, _ *journal) (*plane, error) {
	return spawn(string(v1.ProviderKVM), h.dir, h.victim, d)
}

func (h *onLibvirt) store() string { return filepath.Join(h.dir, "store.db") }

func (h *onLibvirt) was() []string { return h.before }

// command runs a program and returns what it prints.
func command(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%s %v: %w: %s", name, args, err, exit.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}

// things implements ground by looking at libvirt and at the files, without asking
// the provider.
func (h *onLibvirt) things(ctx context.Context) (all []providers.Resource, err error) {
	names, err := command(ctx, "virsh", "list", "--all", "--name")
	if err != nil {
		return nil, err
	}
	uses := map[string][]types.UID{}
	for _, name := range strings.Fields(names) {
		if slices.Contains(h.domains, name) {
			continue
		}
		id, err := command(ctx, "virsh", "domuuid", name)
		if err != nil {
			return nil, err
		}
		whose := name[:max(strings.LastIndex(name, "."), 0)] // NAMESPACE.NAME of NAMESPACE.NAME.UID
		all = append(all, providers.Resource{Kind: providers.ResourceMachine, ID: id, Owners: []types.UID{types.UID(id)}, Description: whose})
		xml, err := command(ctx, "virsh", "dumpxml", name)
		if err != nil {
			return nil, err
		}
		for _, part := range strings.Split(xml, "<source network='")[1:] {
			network, _, _ := strings.Cut(part, "'")
			uses[network] = append(uses[network], types.UID(id))
		}
	}
	networks, err := command(ctx, "virsh", "net-list", "--all", "--name")
	if err != nil {
		return nil, err
	}
	for _, name := range strings.Fields(networks) {
		if !slices.Contains(h.networks, name) {
			all = append(all, providers.Resource{Kind: providers.ResourceNetwork, ID: name, Owners: uses[name]})
		}
	}
	files, err := filesOf(filepath.Join(h.dir, "data"))
	return append(all, files...), err
}

// filesOf lists the files of a provider's data folder by whose they are.
func filesOf(data string) (all []providers.Resource, err error) {
	err = filepath.WalkDir(data, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.IsDir() || e.Name() == "instance" {
			return err
		}
		r := providers.Resource{Kind: "unknown file", ID: path, Description: path}
		relative, _ := filepath.Rel(data, path)
		switch part := strings.Split(relative, "/"); {
		case len(part) > 2 && part[0] == "machines":
			r.Kind, r.Owners = providers.ResourceDisk, []types.UID{types.UID(part[1])}
		case len(part) > 2 && part[0] == "images" && strings.HasSuffix(part[2], ".json"):
			r.Kind, r.ID = providers.ResourceImage, part[1]+"@"+strings.TrimSuffix(part[2], ".json")
		case len(part) > 2 && part[0] == "images":
			r.Kind, r.Owners = "file of an image", []types.UID{types.UID(part[1])}
			if strings.HasSuffix(part[2], ".import") {
				r.Kind = providers.ResourceFile
			}
		case part[0] == "networks":
			return nil // VirtualBox's own are looked at
		}
		all = append(all, r)
		return nil
	})
	return all, err
}

// others implements ground.
func (h *onLibvirt) others(ctx context.Context) (lines []string, err error) {
	for _, name := range h.domains {
		for _, args := range [][]string{{"dumpxml", name}, {"dumpxml", "--inactive", name}, {"domstate", "--reason", name}} {
			out, err := command(ctx, "virsh", args...)
			lines = append(lines, strings.Join(args, " ")+": "+cmpErr(out, err))
		}
	}
	for _, name := range h.networks {
		out, err := command(ctx, "virsh", "net-dumpxml", name)
		lines = append(lines, "network "+name+": "+cmpErr(out, err))
	}
	disk, err := os.ReadFile(filepath.Join(h.dir, "theirs.raw"))
	return append(lines, fmt.Sprintf("disk %x %v", sha256.Sum256(disk), err)), nil
}

func cmpErr(out string, err error) string {
	if err != nil {
		return err.Error()
	}
	return out
}

// populate makes what others have: a machine that runs, on a network of theirs, and
// one that looks like that of another daemon.
func (h *onLibvirt) populate(ctx context.Context) error {
	h.domains, h.networks = []string{"theirs", "default.box.aaaaaaaa"}, []string{"theirs"}
	disk := filepath.Join(h.dir, "theirs.raw")
	sector := slices.Concat([]byte{0xfa, 0xf4, 0xeb, 0xfd}, make([]byte, 506), []byte{0x55, 0xaa}) // cli; hlt; jmp to the hlt
	if err := os.WriteFile(disk, append(sector, strings.Repeat("theirs", 1000)...), 0o666); err != nil {
		return err
	}
	for file, xml := range map[string]string{
		"network.xml": `<network><name>theirs</name><bridge name='theirs0'/></network>`,
		"running.xml": `<domain type='qemu'><name>theirs</name><memory>32768</memory><os><type>hvm</type></os><devices>
			<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='` + disk + `'/><target dev='vda' bus='virtio'/></disk>
			</devices></domain>`,
		"other.xml": `<domain type='qemu'><name>default.box.aaaaaaaa</name><memory>32768</memory><metadata>
			<sandboxd:machine xmlns:sandboxd='https://sandboxd.dev/xmlns/machine/1'>{"instance":"` + string(otherOne) + `"}</sandboxd:machine>
			</metadata><os><type>hvm</type></os></domain>`,
	} {
		if err := os.WriteFile(filepath.Join(h.dir, file), []byte(xml), 0o600); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"net-define", h.dir + "/network.xml"}, {"define", h.dir + "/running.xml"}, {"start", "theirs"}, {"define", h.dir + "/other.xml"},
	} {
		if _, err := command(ctx, "virsh", args...); err != nil {
			return err
		}
	}
	lines, err := h.others(ctx)
	h.before = lines
	return err
}

func (h *onLibvirt) depopulate() {
	for _, args := range [][]string{{"destroy", "theirs"}, {"undefine", "theirs"}, {"undefine", "default.box.aaaaaaaa"}, {"net-undefine", "theirs"}} {
		_, _ = command(context.Background(), "virsh", args...)
	}
}

// machine implements host.
func (h *onLibvirt) machine(ctx context.Context, id types.UID) (m providers.Machine, err error) {
	state, err := command(ctx, "virsh", "domstate", string(id))
	if err != nil {
		return m, err
	}
	saved := filepath.Join(h.dir, "data", "machines", string(id), "memory")
	switch _, missing := os.Stat(saved); {
	case state == "running":
		m.Power = providers.PowerRunning
	case state == "shut off" && missing == nil:
		m.Power = providers.PowerSaved
	case state == "shut off":
		m.Power = providers.PowerOff
		if out, err := command(ctx, "virsh", "dominfo", string(id)); err == nil && strings.Contains(out, "Managed save: yes") ||
			strings.Contains(strings.Join(strings.Fields(out), " "), "Managed save: yes") {
			m.Power = providers.PowerSaved
		}
	default:
		m.Power = providers.Power(state)
	}
	return m, nil
}

// agent asks the guest's agent, without the provider.
func agent(ctx context.Context, id types.UID, name string, args map[string]any, reply any) error {
	request, err := json.Marshal(map[string]any{"execute": name, "arguments": args})
	if err != nil {
		return err
	}
	out, err := command(ctx, "virsh", "qemu-agent-command", string(id), string(request))
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), &struct {
		Return any `json:"return"`
	}{reply})
}

// read implements host.
func (h *onLibvirt) read(ctx context.Context, id types.UID, path string) (string, error) {
	var handle int
	if err := agent(ctx, id, "guest-file-open", map[string]any{"path": path, "mode": "r"}, &handle); err != nil {
		return "", err
	}
	var got struct {
		Buf string `json:"buf-b64"`
	}
	err := agent(ctx, id, "guest-file-read", map[string]any{"handle": handle}, &got)
	if closed := agent(ctx, id, "guest-file-close", map[string]any{"handle": handle}, &struct{}{}); err == nil {
		err = closed
	}
	b, bad := base64.StdEncoding.DecodeString(got.Buf)
	return string(b), errors.Join(err, bad)
}

// write implements host; what was written is on the disk.
func (h *onLibvirt) write(ctx context.Context, id types.UID, path, content string) error {
	var handle int
	if err := agent(ctx, id, "guest-file-open", map[string]any{"path": path, "mode": "w"}, &handle); err != nil {
		return err
	}
	for _, call := range []struct {
		name string
		args map[string]any
	}{
		{"guest-file-write", map[string]any{"handle": handle, "buf-b64": base64.StdEncoding.EncodeToString([]byte(content))}},
		{"guest-file-flush", map[string]any{"handle": handle}},
		{"guest-file-close", map[string]any{"handle": handle}},
	} {
		if err := agent(ctx, id, call.name, call.args, &struct{}{}); err != nil {
			return err
		}
	}
	return nil
}

// TestLibvirt kills daemons, and libvirt, on a private libvirt.
func TestLibvirt(t *testing.T) {
	private.Require(t, "LIBVIRT", "there is no private libvirt: run the test by hack/private-libvirt -- go test ./test/crash")
	h := &onLibvirt{}
	fresh := func(t *testing.T, victim string) ground {
		t.Helper()
		dir := folder(t)
		image, err := os.ReadFile(tinyImage(t))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "golden.qcow2"), image, 0o644))
		h.dir, h.victim = dir, victim
		h.depopulate()
		must(t, h.populate(t.Context()))
		return h
	}
	defer h.depopulate()
	restart := `kill -9 $(cat "$SANDBOXD_LIBVIRTD_PIDFILE"); sleep 0.2; "$SANDBOXD_LIBVIRTD_START"`
	sampleAll(t, "on libvirt", fresh, []sample{
		{op: realOperation("create"), points: 4},
		{op: realOperation("update: forwards"), points: 3},
		{op: realOperation("update: network"), points: 3},
		{op: realOperation("suspend"), points: 3},
		{op: realOperation("revert"), points: 4},
		{op: realOperation("delete"), points: 4},
		{op: realOperation("image: import"), points: 3},
		{op: realOperation("stop, with a guest"), points: 1},
		{op: realOperation("revert, with a guest"), points: 1},
		{op: realOperation("create"), points: 2, victim: restart, as: "libvirtd in create"},
		{op: realOperation("delete"), points: 1, victim: restart, as: "libvirtd in delete"},
	})
}

// TestLibvirtNeighbours: two daemons with two stores on one libvirt, whose objects
// have the same names, both collecting garbage: one works and is killed, and of the
// other nothing changes.
func TestLibvirtNeighbours(t *testing.T) {
	private.Require(t, "LIBVIRT", "there is no private libvirt: run the test by hack/private-libvirt -- go test ./test/crash")
	ctx := t.Context()
	image, err := os.ReadFile(tinyImage(t))
	must(t, err)
	var both []*life
	for range 2 {
		h := &onLibvirt{dir: folder(t)}
		must(t, os.WriteFile(filepath.Join(h.dir, "golden.qcow2"), image, 0o644))
		l := &life{host: h, journal: newJournal(), death: newDeath(point{}), lag: 100 * time.Millisecond}
		l.plane, err = h.begin(l.death, l.journal)
		must(t, err)
		t.Cleanup(func() { _ = l.plane.end() })
		must(t, l.do(ctx, deed{create(goldenImage("golden")), isReady("golden")}))
		must(t, l.do(ctx, deed{create(sandbox("box", idle, natted(8080))), all(isReady("box"), listens("box", 1))}))
		both = append(both, l)
	}
	quiet, busy := both[0], both[1]
	box, err := stage{ctx, quiet.plane.client, quiet.host}.sandbox("box")
	must(t, err)
	dir := quiet.host.(*onLibvirt).dir
	belongings := func() string {
		t.Helper()
		var all []string
		for _, args := range [][]string{{"dumpxml", string(box.UID)}, {"dumpxml", "--inactive", string(box.UID)}, {"domstate", "--reason", string(box.UID)}} {
			out, err := command(ctx, "virsh", args...)
			must(t, err)
			all = append(all, strings.ReplaceAll(out, "state='connected'", "state='disconnected'")) // its agent comes up
		}
		files, err := filesOf(filepath.Join(dir, "data"))
		must(t, err)
		for _, f := range files {
			all = append(all, fmt.Sprintf("%+v", f))
		}
		return strings.Join(all, "\n")
	}
	before := belongings()
	must(t, busy.do(ctx, deed{remove(sandbox("box")), gone(sandbox("box"))}))
	must(t, busy.do(ctx, deed{create(sandbox("box", idle, natted(8080))), isReady("box")}))
	must(t, busy.plane.end())
	busy.death = newDeath(point{})
	busy.plane, err = busy.host.begin(busy.death, busy.journal)
	must(t, err)
	must(t, busy.do(ctx, deed{remove(sandbox("box")), gone(sandbox("box"))}))
	must(t, busy.do(ctx, deed{remove(goldenImage("golden")), gone(goldenImage("golden"))}))
	time.Sleep(5 * realPace) // some rounds of both daemons' garbage collection, past its grace
	if now := belongings(); now != before {
		t.Errorf("of the other daemon there was\n%s\nthere is\n%s", before, now)
	}
	must(t, quiet.eventually(ctx, all(isReady("box"), listens("box", 1))))
	must(t, quiet.do(ctx, deed{remove(sandbox("box")), gone(sandbox("box"))}))
	must(t, quiet.do(ctx, deed{remove(goldenImage("golden")), gone(goldenImage("golden"))}))
	if left, err := command(ctx, "virsh", "list", "--all", "--name"); err != nil || left != "" {
		t.Errorf("left: %q, %v", left, err)
	}
}
