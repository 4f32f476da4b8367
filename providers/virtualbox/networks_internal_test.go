package virtualbox

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/hostnet"
)

// hostOnlyScript is a VBoxManage that has host-only adapters and networks, as
// files of its folder, and nothing else. While it makes an adapter it keeps what
// the data folder is like then: as a process that ends would leave it.
const hostOnlyScript = `#!/bin/sh
set -eu
cd "$(dirname "$0")"
` + wholeOutputs + `
mkdir -p adapters networks servers
refuse() {
	echo "VBoxManage: error: $1
VBoxManage: error: Details: code NS_ERROR_INVALID_ARG (0x80070057), component HostWrap" >&2
	exit 1
}
keep() { rm -rf "$1"; cp -a data/networks "$1"; }
case "$1 ${2-} ${3-}" in
"list --multiple hostonlyifs")
	for f in adapters/*; do
		[ -e "$f" ] || continue
		printf 'Name:            %s\nGUID:            786f6276-656e-4074-8000-0a0027000000\nDHCP:            Disabled\nIPAddress:       %s\nNetworkMask:     255.255.255.0\nStatus:          Up\nVBoxNetworkName: HostInterfaceNetworking-%s\n\n' \
			"${f#*/}" "$(cat "$f")" "${f#*/}"
	done ;;
"hostonlyif create "*)
	[ ! -e refuse ] || refuse 'Failed to create the host-only adapter'
	n=0
	while [ -e adapters/vboxnet$n ]; do n=$((n + 1)); done
	echo 192.168.56.1 >adapters/vboxnet$n
	keep made
	printf '0%%...100%%\n' >&2
	echo "Interface 'vboxnet$n' was successfully created"
	keep answered ;;
"hostonlyif ipconfig "*) [ -e "adapters/$3" ] || refuse "no $3"; echo "$5" >"adapters/$3" ;;
"hostonlyif remove "*) [ -e "adapters/$3" ] || refuse "no $3"; rm "adapters/$3" ;;
"dhcpserver add "*) shift 3; [ ! -e "servers/$1" ] || refuse "there is a server of $1"; echo "$*" >"servers/$1" ;;
"dhcpserver remove "*) [ -e "servers/$4" ] || refuse "no server of $4"; rm "servers/$4" ;;
"dhcpserver findlease "*) echo "IP Address:  192.168.56.35
MAC Address: $6" ;;
"list --multiple hostonlynets")
	for f in networks/*; do
		[ -e "$f" ] || continue
		set -- $(cat "$f")
		printf 'Name:            %s\nGUID:            249ae3f6-cab1-4fb2-b92b-defd97d59cd0\n\nState:           Enabled\nNetworkMask:     %s\nLowerIP:         %s\nUpperIP:         %s\nVBoxNetworkName: hostonly-%s\n\n' \
			"${f#*/}" "$2" "$1" "$3" "${f#*/}"
	done ;;
"hostonlynet add "*)
	[ "$3 $5 $7 $9 ${11}" = "--name --netmask --lower-ip --upper-ip --enable" ] || exit 2
	[ ! -e "networks/$4" ] || refuse "there is a $4"
	keep made
	echo "$8 $6 ${10}" >"networks/$4" ;;
"hostonlynet modify "*) [ -e "networks/$4" ] || refuse "no $4"; echo "$8 $6 ${10}" >"networks/$4" ;;
"hostonlynet remove "*) [ -e "networks/$4" ] || refuse "no $4"; rm "networks/$4" ;;
"list --multiple "*) ;;
*) echo "VBoxManage: error: unexpected: $*" >&2; exit 2 ;;
esac
`

// scripted is a host whose VBoxManage is a script.
type scripted struct {
	*Provider
	dir, system string
}

func newScripted(t *testing.T, system string) *scripted {
	t.Helper()
	s := &scripted{dir: t.TempDir(), system: system}
	if err := os.WriteFile(filepath.Join(s.dir, "VBoxManage"), []byte(hostOnlyScript), 0o755); err != nil {
		t.Fatal(err)
	}
	s.reopen(t)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// reopen opens the provider as a new process would.
func (s *scripted) reopen(t *testing.T) {
	t.Helper()
	if s.Provider != nil {
		_ = s.Close()
	}
	p, err := New(Options{
		Instance: "i", DataDir: filepath.Join(s.dir, "data"), Manage: filepath.Join(s.dir, "VBoxManage"), system: s.system,
		links: func(name string) bool { return slices.Contains(s.names(t, "adapters"), name) },
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Provider = p
}

// cutOff makes the data folder what it was at some moment, a while ago, for a new
// process.
func (s *scripted) cutOff(t *testing.T, moment string, ago time.Duration) {
	t.Helper()
	if err := os.RemoveAll(s.data.networks()); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(s.data.networks(), os.DirFS(filepath.Join(s.dir, moment))); err != nil {
		t.Fatal(err)
	}
	for _, name := range s.names(t, "data/networks") {
		then := time.Now().Add(-ago)
		if err := os.Chtimes(filepath.Join(s.data.networks(), name), then, then); err != nil {
			t.Fatal(err)
		}
	}
	s.reopen(t)
}

// names of what is in a folder of the host.
func (s *scripted) names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, dir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (s *scripted) content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, path))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// machine notes a machine on a host-only network.
func (s *scripted) machine(t *testing.T) record {
	t.Helper()
	r := record{
		Instance: "i", ID: types.UID(uuid.NewString()), Namespace: "default", Name: "web", VM: "web",
		Network: v1.Network{Mode: v1.NetworkHostOnly, Name: "shared"},
	}
	if err := s.begin(r); err != nil {
		t.Fatal(err)
	}
	return r
}

// forget removes the machine's record.
func (s *scripted) forget(t *testing.T, r record) network {
	t.Helper()
	if err := os.RemoveAll(s.data.MachineDir(r.ID)); err != nil {
		t.Fatal(err)
	}
	n, _ := networkOf(r)
	return n
}

func (s *scripted) join(t *testing.T, r record) string {
	t.Helper()
	if err := s.joinNetwork(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	return s.networkName(r)
}

func (s *scripted) leave(t *testing.T, r record) {
	t.Helper()
	if err := s.leaveNetwork(t.Context(), s.forget(t, r)); err != nil {
		t.Fatal(err)
	}
}

func (s *scripted) wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	if got := s.names(t, dir); !slices.Equal(got, want) {
		t.Errorf("in %s there are %q, not %q", dir, got, want)
	}
}

// TestHostOnlyAdapters: each machine has an adapter of its own, whatever its
// network is called, as long as it is there, and others' stay as they are.
func TestHostOnlyAdapters(t *testing.T) {
	s := newScripted(t, "linux")
	one, two := s.machine(t), s.machine(t)
	if err := os.MkdirAll(filepath.Join(s.dir, "adapters"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "adapters/vboxnet0"), []byte("192.168.56.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	a, b := s.join(t, one), s.join(t, two)
	if a != "vboxnet1" || b != "vboxnet2" {
		t.Fatalf("the machines are on %s and %s", a, b)
	}
	all, err := s.adapters()
	if err != nil || len(all) != 2 || all[0].Subnet.Overlaps(all[1].Subnet) {
		t.Fatalf("their networks are %+v, %v", all, err)
	}
	for _, x := range all {
		if !DefaultSubnetPool.Overlaps(x.Subnet) || s.content(t, "adapters/"+x.Adapter) != hostnet.Gateway(x.Subnet).String() {
			t.Errorf("%s has the address %s and the subnet %s", x.Adapter, s.content(t, "adapters/"+x.Adapter), x.Subnet)
		}
		a := x.Subnet.Masked().Addr().As4()
		at := func(n byte) string { return netip.AddrFrom4([4]byte{a[0], a[1], a[2], a[3] + n}).String() }
		want := x.Adapter + " --server-ip " + at(2) + " --netmask 255.255.255.248 --lower-ip " + at(3) + " --upper-ip " + at(6) + " --enable"
		if got := s.content(t, "servers/"+x.Adapter); got != want {
			t.Errorf("the DHCP server is %s, not %s", got, want)
		}
	}
	if again := s.join(t, one); again != a {
		t.Errorf("joined again, the machine is on %s", again)
	}
	if lease, ok := s.hostOnly().lease(t.Context(), a, one.ID); !ok || lease.String() != "192.168.56.35" {
		t.Errorf("its lease is %s, %v", lease, ok)
	}
	if err := os.Remove(filepath.Join(s.dir, "adapters/vboxnet1")); err != nil { // the host was started anew
		t.Fatal(err)
	}
	if again := s.join(t, one); again != "vboxnet1" {
		t.Errorf("after the adapter was lost, the machine is on %s", again)
	}
	n, _ := networkOf(one)
	if err := s.leaveNetwork(t.Context(), n); err != nil || len(s.names(t, "adapters")) != 3 {
		t.Errorf("a network in use was removed: %v", err)
	}
	s.leave(t, one)
	s.wantNames(t, "adapters", "vboxnet0", "vboxnet2")
	n = s.forget(t, two)
	if err := s.RemoveResource(t.Context(), providers.Resource{Kind: providers.ResourceNetwork, ID: n.id(), Ownership: providers.Ours}); err != nil {
		t.Error(err)
	}
	s.wantNames(t, "adapters", "vboxnet0")
	s.wantNames(t, "servers")
	s.wantNames(t, "data/networks")
}

// TestAnsweredAdapter: a process that ends after VBoxManage named an adapter,
// before it could note that, leaves the adapter to the next one.
func TestAnsweredAdapter(t *testing.T) {
	s := newScripted(t, "linux")
	r := s.machine(t)
	s.join(t, r)
	s.cutOff(t, "answered", 0)
	if name := s.join(t, r); name != "vboxnet0" {
		t.Errorf("the machine is on %s", name)
	}
	s.wantNames(t, "adapters", "vboxnet0")
	s.cutOff(t, "answered", 0)
	s.leave(t, r)
	s.wantNames(t, "adapters")
	s.wantNames(t, "data/networks")
}

// TestUnansweredAdapter: of an adapter that appeared while one was asked for, and
// that nobody has named, it is not known whose it is.
func TestUnansweredAdapter(t *testing.T) {
	s := newScripted(t, "linux")
	r := s.machine(t)
	s.join(t, r)
	s.cutOff(t, "made", 0)
	if err := s.joinNetwork(t.Context(), r); !errors.Is(err, providers.ErrBusy) {
		t.Errorf("while VBoxManage may still be at it: %v", err)
	}
	s.cutOff(t, "made", 2*time.Minute)
	if name := s.join(t, r); name != "vboxnet1" {
		t.Errorf("the machine is on %s", name)
	}
	s.wantNames(t, "adapters", "vboxnet0", "vboxnet1")
	ambiguous := func() []providers.Resource {
		all, err := s.ListResources(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(all, func(r providers.Resource) bool { return r.Ownership != providers.Ambiguous })
	}
	found := ambiguous()
	if len(found) != 1 || found[0].ID != "adapters/vboxnet0" || !strings.Contains(found[0].Description, "vboxnet0") {
		t.Fatalf("reported is %+v", found)
	}
	found[0].Ownership = providers.Ours // a caller's mistake
	if err := s.RemoveResource(t.Context(), found[0]); !errors.Is(err, providers.ErrInvalid) {
		t.Errorf("its removal: %v", err)
	}
	s.leave(t, r)
	s.wantNames(t, "adapters", "vboxnet0")
	if err := os.Remove(filepath.Join(s.dir, "adapters/vboxnet0")); err != nil { // by hand
		t.Fatal(err)
	}
	if found := ambiguous(); len(found) != 0 {
		t.Errorf("reported although it is gone: %+v", found)
	}
	s.wantNames(t, "data/networks")
}

// TestReusedName: an adapter that has the name of ours and another address may be
// somebody else's, made after ours was lost. It is left alone.
func TestReusedName(t *testing.T) {
	s := newScripted(t, "linux")
	r := s.machine(t)
	for _, want := range []string{"vboxnet0", "vboxnet1"} {
		name := s.join(t, r)
		if name != want {
			t.Fatalf("the machine is on %s, not on %s", name, want)
		}
		if err := os.WriteFile(filepath.Join(s.dir, "adapters", name), []byte("10.0.0.1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.leave(t, r)
	s.wantNames(t, "adapters", "vboxnet0", "vboxnet1")
	for _, name := range []string{"vboxnet0", "vboxnet1"} {
		if got := s.content(t, "adapters/"+name); got != "10.0.0.1" {
			t.Errorf("%s has the address %s", name, got)
		}
	}
	all, err := s.ListResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	doubtful := 0
	for _, r := range all {
		if r.Kind == providers.ResourceNetwork && r.Ownership == providers.Ambiguous {
			doubtful++
		}
	}
	if doubtful != 2 {
		t.Errorf("reported is %+v", all)
	}
}

// TestUnconfiguredAdapter: an adapter that was made and not given its address is
// ours all the same.
func TestUnconfiguredAdapter(t *testing.T) {
	s := newScripted(t, "linux")
	r := s.machine(t)
	busy := filepath.Join(s.dir, "servers/vboxnet0")
	if err := os.MkdirAll(filepath.Join(busy, "in-the-way"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.joinNetwork(t.Context(), r); err == nil {
		t.Fatal("without a DHCP server it is ready")
	}
	if err := os.WriteFile(filepath.Join(s.dir, "adapters/vboxnet0"), []byte("192.168.56.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(busy); err != nil {
		t.Fatal(err)
	}
	if name := s.join(t, r); name != "vboxnet0" || len(s.names(t, "servers")) != 1 {
		t.Errorf("the machine is on %s", name)
	}
	s.leave(t, r)
	s.wantNames(t, "adapters")
}

// TestRefusedAdapter: what VirtualBox refuses leaves nothing, and is told.
func TestRefusedAdapter(t *testing.T) {
	s := newScripted(t, "linux")
	r := s.machine(t)
	if err := os.WriteFile(filepath.Join(s.dir, "refuse"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.joinNetwork(t.Context(), r); err == nil || !strings.Contains(err.Error(), "Failed to create the host-only adapter") {
			t.Errorf("the error is %v", err)
		}
		s.wantNames(t, "data/networks")
	}
}

// TestHostOnlyNetworks: on macOS the system has the networks.
func TestHostOnlyNetworks(t *testing.T) {
	s := newScripted(t, "darwin")
	one, two := s.machine(t), s.machine(t)
	a, b := s.join(t, one), s.join(t, two)
	if a == b || !strings.HasPrefix(a, hostNetworkPrefix) || !strings.HasSuffix(a, string(one.ID)) {
		t.Fatalf("the machines are on %s and %s", a, b)
	}
	card := strings.Join(plan{spec: providers.MachineSpec{ID: one.ID, Network: one.Network}, network: a}.card(), " ")
	if !strings.HasPrefix(card, "--nic1 hostonlynet --host-only-net1 "+a+" --nic-type1 ") {
		t.Errorf("the card is %s", card)
	}
	n, _ := networkOf(one)
	x, err := s.readAdapter(n)
	if err != nil {
		t.Fatal(err)
	}
	mask, host, last := guestRange(x.Subnet)
	if got, want := s.content(t, "networks/"+a), fmt.Sprintf("%s %s %s", host, mask, last); got != want {
		t.Errorf("the network is %s, not %s", got, want)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "networks", a), []byte("10.0.0.1 255.0.0.0 10.0.0.9\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.join(t, one)
	if got := s.content(t, "networks/"+a); !strings.HasPrefix(got, host.String()+" ") {
		t.Errorf("somebody's change stays: %s", got)
	}
	s.leave(t, two)
	s.cutOff(t, "made", 0) // of the second: it was noted and there was no network yet
	s.wantNames(t, "networks", a)
	s.leave(t, two)
	s.wantNames(t, "networks", a)
}

// TestBridges: nobody joins the network of another guest by its link, nor the host's
// loopback.
func TestBridges(t *testing.T) {
	s := newScripted(t, "linux")
	if err := os.MkdirAll(filepath.Join(s.dir, "adapters"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "adapters", "somebodys"), []byte("192.168.56.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.opts.links = func(name string) bool { return name != "gone" }
	for name, good := range map[string]bool{
		"eth99": true, "gone": false, "lo": false, "somebodys": false, "vboxnet3": false, "sb0123n01234567": false, "st0123h01234567": false,
	} {
		spec := providers.MachineSpec{
			ID: testID, Namespace: "default", Name: "web", Image: providers.ImageRef{UID: testID, Revision: "1"}, CPUs: 1, MemoryBytes: 64 << 20,
			Network: v1.Network{Mode: v1.NetworkBridged, Bridge: name},
		}
		err := validate(spec)
		if err == nil {
			err = s.checkHost(t.Context(), spec)
		}
		if good && err != nil || !good && !errors.Is(err, providers.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGuestRange(t *testing.T) {
	for subnet, want := range map[string]string{
		"192.168.56.8/29": "255.255.255.248 192.168.56.9 192.168.56.14",
		"10.1.2.0/24":     "255.255.255.0 10.1.2.1 10.1.2.254",
	} {
		mask, host, last := guestRange(netip.MustParsePrefix(subnet))
		if got := fmt.Sprint(mask, " ", host, " ", last); got != want {
			t.Errorf("%s: %s, not %s", subnet, got, want)
		}
	}
}

// TestManyHostOnlyNetworks: each of many machines at once gets a subnet of its own.
func TestManyHostOnlyNetworks(t *testing.T) {
	s := newScripted(t, "linux")
	errs := make(chan error)
	for range 6 {
		r := s.machine(t)
		go func() { errs <- s.joinNetwork(context.Background(), r) }()
	}
	for range 6 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	all, err := s.adapters()
	if err != nil || len(all) != 6 {
		t.Fatalf("%d adapters, %v", len(all), err)
	}
	for i, a := range all {
		for _, b := range all[:i] {
			if a.Subnet.Overlaps(b.Subnet) || a.Adapter == b.Adapter {
				t.Errorf("%+v and %+v", a, b)
			}
		}
	}
}
