package virtualbox

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/hostport"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/guestcontrol"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

func TestDrives(t *testing.T) {
	info := vboxmanage.ParseInfo([]byte(`storagecontrollername0="IDE"
storagecontrollername1="SATA-2"
"IDE-0-0"="/iso.iso"
"IDE-ImageUUID-0-0"="09daec59-e7d0-4721-909c-8324cafd14ea"
"IDE-tempeject-0-0"="off"
"IDE-0-1"="none"
"SATA-2-10-0"="/b.vdi"
"SATA-2-ImageUUID-10-0"="3c91bf36-d64f-4066-85df-3cee44b439cf"
"SATA-2-nonrotational-10-0"="off"
"SATA-2-2-0"="/a.vmdk"
"SATA-2-ImageUUID-2-0"="4c91bf36-d64f-4066-85df-3cee44b439cf"
`))
	disks, others := attached(info)
	if len(disks) != 2 || disks[0].path != "/a.vmdk" || disks[1].path != "/b.vdi" || disks[1].controller != "SATA-2" || disks[1].port != "10" {
		t.Errorf("the disks are %+v", disks)
	}
	if len(others) != 2 || others[0].path != "/iso.iso" {
		t.Errorf("the other drives are %+v", others)
	}
	if slot, inserted, ok := seedSlot(info, "/seed.iso"); !ok || inserted || slot.controller != "IDE" || slot.device != "1" {
		t.Errorf("room for the seed: %+v %v %v", slot, inserted, ok)
	}
	if _, inserted, ok := seedSlot(info, "/iso.iso"); !ok || !inserted {
		t.Error("a seed that is there is not found")
	}
	maps.Copy(info, vboxmanage.Info{
		"storagecontrollername2": "FD", "storagecontrollertype2": "I82078", "FD-0-0": "/floppy.img", "FD-ImageUUID-0-0": "5c91bf36-d64f-4066-85df-3cee44b439cf", "FD-0-1": emptyDrive,
	})
	if disks, others := attached(info); len(disks) != 2 || len(others) != 4 {
		t.Errorf("with a floppy the disks are %+v, and the other drives %+v", disks, others)
	}
	delete(info, "IDE-0-1")
	if _, _, ok := seedSlot(info, "/seed.iso"); ok {
		t.Error("there is room where none is")
	}
}

func TestRuleChanges(t *testing.T) {
	got := fmt.Sprint(ruleChanges([]string{"a,tcp,127.0.0.1,1,,1", "b,tcp,127.0.0.1,2,,2"}, []string{"b,tcp,127.0.0.1,2,,2", "a,tcp,127.0.0.1,3,,1"}))
	if want := "[[delete a] [a,tcp,127.0.0.1,3,,1]]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestChildren(t *testing.T) {
	disks := []map[string]string{
		{"UUID": "base", "Parent UUID": "base", "Location": "/d/images/u/1/disk.vdi"},
		{"UUID": "own", "Parent UUID": "base", "Location": "/d/images/u/1/vm/Snapshots/{own}.vdi"},
		{"UUID": "stray", "Parent UUID": "base", "Location": "/d/machines/x/vm/{stray}.vdi"},
		{"UUID": "unrelated", "Parent UUID": "other", "Location": "/home/me/x.vdi"},
		{"UUID": "similar", "Parent UUID": "other", "Location": "/d/images/u/10/disk.vdi"},
	}
	strays, foreign := childrenOf(disks, "/d/images/u/1", "/d/machines")
	if !slices.Equal(strays, []string{"stray"}) || foreign != "" {
		t.Errorf("strays %v, foreign %q", strays, foreign)
	}
	disks = append(disks, map[string]string{"UUID": "mine", "Parent UUID": "base", "Location": "/home/me/clone.vdi"})
	if _, foreign := childrenOf(disks, "/d/images/u/1", "/d/machines"); foreign != "/home/me/clone.vdi" {
		t.Errorf("somebody's clone is not seen: %q", foreign)
	}
}

func TestSnapshotOf(t *testing.T) {
	info := vboxmanage.Info{
		"SnapshotName": "clean", "SnapshotUUID": "u1", "SnapshotName-1": "later", "SnapshotUUID-1": "u2",
		"CurrentSnapshotName": "later", "CurrentSnapshotUUID": "u2",
	}
	for name, want := range map[string]string{"clean": "u1", "later": "u2", "u2": "u2", "none": "", "": ""} {
		if got := snapshotOf(info, name); got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
}

// TestClaimed: addresses of an earlier run, or of the machine whose memory was
// cloned, are not taken.
func TestClaimed(t *testing.T) {
	since := time.Date(2026, 11, 21, 18, 40, 0, 0, time.UTC)
	line := func(n int, ip, at string) string {
		return fmt.Sprintf("/VirtualBox/GuestInfo/Net/%d/V4/IP              = '%s'           @ %s TRANSIENT, TRANSRESET\n", n, ip, at)
	}
	out := line(0, "10.0.2.15", "2026-11-21T18:40:01.5Z") + line(1, "10.0.2.16", "2026-11-21T18:39:59.9Z") +
		line(2, "no address", "2026-11-21T18:41:00Z") + line(3, "10.0.2.17", "not a time") +
		"/VirtualBox/GuestInfo/Net/4/V4/Netmask = '255.255.255.0' @ 2026-11-21T18:41:00Z TRANSIENT\n" +
		"/VirtualBox/GuestInfo/Net/0/V6/IP = 'fd00::1' @ 2026-11-21T18:41:00Z\n"
	if got := fmt.Sprint(claimed(out, since)); got != "[10.0.2.15 fd00::1]" {
		t.Errorf("got %s", got)
	}
	if got := claimed(out, time.Time{}); len(got) != 0 {
		t.Errorf("of a machine whose start is not known: %v", got)
	}
	many := strings.Repeat(line(0, "10.0.0.1", "2026-11-21T18:41:00Z"), 1000)
	if got := claimed(many, since); len(got) != maxAddresses {
		t.Errorf("a guest that claims a thousand has %d", len(got))
	}
	var list []v1.GuestAddress
	for _, a := range []string{"127.0.0.1", "169.254.1.1", "224.0.0.1", "0.0.0.0", "fe80::1", "10.0.0.1"} {
		list = appendAddress(list, netip.MustParseAddr(a), v1.AddressFromAgent)
	}
	if len(list) != 1 || list[0].IP != "10.0.0.1" {
		t.Errorf("addresses that lead nowhere are taken: %v", list)
	}
}

func TestPorts(t *testing.T) {
	table := newPortTable()
	fwd := func(name string, port int32) v1.PortForward {
		return v1.PortForward{Name: name, HostPort: port, GuestPort: 22}
	}
	one, err := table.reserve("one", []v1.PortForward{fwd("a", 0), fwd("b", 0)}, nil)
	if err != nil || one[0].HostPort == one[1].HostPort || one[0].HostAddress != hostport.DefaultAddress || one[0].Protocol != v1.ProtocolTCP {
		t.Fatalf("got %v, %v", one, err)
	}
	again, err := table.reserve("one", []v1.PortForward{fwd("c", 0), fwd("a", 0)}, one)
	if err != nil || again[1] != one[0] {
		t.Errorf("a forward that was there became %v, %v", again, err)
	}
	taken := again[1].HostPort
	everywhere := fwd("x", taken)
	everywhere.HostAddress = "0.0.0.0"
	for _, f := range []v1.PortForward{fwd("x", taken), everywhere} {
		if _, err := table.reserve("two", []v1.PortForward{f}, nil); !errors.Is(err, providers.ErrBusy) || !strings.Contains(err.Error(), fmt.Sprint(taken)) {
			t.Errorf("another's port: %v", err)
		}
	}
	udp := fwd("x", taken)
	udp.Protocol = v1.ProtocolUDP
	if _, err := table.reserve("two", []v1.PortForward{udp}, nil); err != nil {
		t.Errorf("the same number with another protocol: %v", err)
	}
	table.release("one")
	if _, err := table.reserve("three", []v1.PortForward{fwd("x", taken)}, nil); err != nil {
		t.Errorf("a port that was given back: %v", err)
	}
	spelled := fwd("x", taken)
	spelled.HostAddress = "::ffff:127.0.0.1"
	if _, err := table.reserve("four", []v1.PortForward{spelled}, nil); !errors.Is(err, providers.ErrBusy) {
		t.Errorf("another's port, spelled otherwise: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	busy := fwd("y", int32(l.Addr().(*net.TCPAddr).Port))
	if _, err := table.reserve("four", []v1.PortForward{busy}, nil); !errors.Is(err, providers.ErrBusy) {
		t.Errorf("a port that another program has: %v", err)
	}
	if err := checkOpenable("four", []v1.PortForward{settle(busy, nil)}); !errors.Is(err, providers.ErrBusy) {
		t.Errorf("at the start: %v", err)
	}
	if f, closed := unopened([]v1.PortForward{settle(busy, nil)}); closed {
		t.Errorf("a port that is open is taken for closed: %v", f)
	}
}

// TestOwnOpenPorts: what a machine's process has open is not in the machine's way,
// unless another machine was given it.
func TestOwnOpenPorts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	f := settle(v1.PortForward{Name: "a", HostPort: int32(l.Addr().(*net.TCPAddr).Port), GuestPort: 22}, nil)
	info := vboxmanage.Info{"VMState": stateRunning, "Forwarding(0)": forwardRule(f), "Forwarding(1)": "a,tcp,127.0.0.1,x,,22", "Forwarding(2)": "a,tcp"}
	open := openForwards(info)
	if !slices.Equal(open, []v1.PortForward{f}) {
		t.Errorf("read as %v", open)
	}
	info["VMState"] = statePoweroff
	if got := openForwards(info); len(got) != 0 {
		t.Errorf("a machine that is off has open %v", got)
	}
	table := newPortTable()
	if _, err := table.reserve("one", []v1.PortForward{f}, nil); !errors.Is(err, providers.ErrBusy) {
		t.Errorf("somebody's port: %v", err)
	}
	if got, err := table.reserve("one", []v1.PortForward{f}, open); err != nil || !slices.Equal(got, open) {
		t.Errorf("its own port: %v, %v", got, err)
	}
	if _, err := table.reserve("two", []v1.PortForward{f}, open); !errors.Is(err, providers.ErrBusy) {
		t.Errorf("another's port: %v", err)
	}
}

// TestPortsAtOnce: of many that want one port at the same time one gets it, and
// those that take any get different ones.
func TestPortsAtOnce(t *testing.T) {
	for _, protocol := range []v1.Protocol{v1.ProtocolTCP, v1.ProtocolUDP} {
		table := newPortTable()
		first, err := table.reserve("first", []v1.PortForward{{Name: "a", Protocol: protocol, GuestPort: 1}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		table.release("first")
		const many = 16
		type outcome struct {
			forwards []v1.PortForward
			err      error
		}
		done := make(chan outcome)
		for i := range many {
			want := []v1.PortForward{{Name: "any", Protocol: protocol, GuestPort: 1}, {Name: "one", Protocol: protocol, HostPort: first[0].HostPort, GuestPort: 2}}
			go func() {
				forwards, err := table.reserve(types.UID(fmt.Sprint(i)), want, nil)
				done <- outcome{forwards, err}
			}()
		}
		won := 0
		for range many {
			switch o := <-done; {
			case o.err == nil && o.forwards[0].HostPort != o.forwards[1].HostPort && o.forwards[1].HostPort == first[0].HostPort:
				won++
			case !errors.Is(o.err, providers.ErrBusy):
				t.Errorf("%s: %+v", protocol, o)
			}
		}
		if won != 1 {
			t.Errorf("%s: %d machines have one port", protocol, won)
		}
	}
}

// TestRefusedForward reads what VirtualBox 7.2.22 logged, on a host where somebody
// else listened on port 2229, and which was busy: its clock says nothing.
func TestRefusedForward(t *testing.T) {
	const log = `00:00:00.115871   Driver <string>  = "NAT" (cb=4)
00:00:00.381982 VMSetError: /build/virtualbox-7.2.22-dfsg/src/VBox/Devices/Network/DrvNAT.cpp(991) int drvNATNotifyApplyPortForwardCommand(PDRVNAT, bool
00:00:17.381992 VMSetError: NAT#0: configuration error: failed to set up redirection of 2229 to 22. Probably a conflict with existing services or other rules
00:00:03.199240 VMMDev: Guest Log: VMSetError: NAT#0: configuration error: failed to set up redirection of 2230 to 22.
00:00:19.678600 Changing the VM state from 'CREATING' to 'CREATED'
00:00:19.731149 Changing the VM state from 'POWERING_ON' to 'RUNNING'
00:00:20.199240 VMSetError: NAT#0: configuration error: failed to set up redirection of 2231 to 22.
`
	for port, refused := range map[int32]bool{2229: true, 2230: false, 2231: false, 222: false} {
		f := v1.PortForward{Name: "a", HostPort: port, GuestPort: 22}
		if got, is := refusedForward([]byte(log), []v1.PortForward{f}); is != refused || is && got != f {
			t.Errorf("port %d: %v, %v", port, got, is)
		}
	}
}

// TestUDPPorts: a UDP port that somebody has is seen, on whatever address.
func TestUDPPorts(t *testing.T) {
	c, err := net.ListenPacket("udp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	f := settle(v1.PortForward{Name: "a", Protocol: v1.ProtocolUDP, HostPort: int32(c.LocalAddr().(*net.UDPAddr).Port), GuestPort: 1}, nil)
	if err := checkOpenable("x", []v1.PortForward{f}); !errors.Is(err, providers.ErrBusy) {
		t.Errorf("somebody's: %v", err)
	}
	if _, closed := unopened([]v1.PortForward{f}); closed {
		t.Error("it is taken for closed")
	}
	f.Protocol = v1.ProtocolTCP
	if _, closed := unopened([]v1.PortForward{f}); !closed {
		t.Error("the TCP port of that number is taken for open")
	}
}

func TestForwardAddresses(t *testing.T) {
	for address, good := range map[string]bool{
		"": true, "127.0.0.1": true, "0.0.0.0": true, "::ffff:127.0.0.1": true,
		"::1": false, "::": false, "fe80::1%lo": false, "localhost": false, "127.1": false,
	} {
		err := validateForwards([]v1.PortForward{{Name: "a", HostAddress: address, GuestPort: 22}})
		if (err == nil) != good {
			t.Errorf("%q: %v", address, err)
		}
	}
	both := []v1.PortForward{{Name: "a", HostAddress: "0.0.0.0", HostPort: 2222, GuestPort: 1}, {Name: "b", HostPort: 2222, GuestPort: 2}}
	if hostport.Check(both) == nil {
		t.Error("one port on all addresses and on one")
	}
}

func TestNames(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, parts := range [][]string{{"default", "web", "7ff09921"}, {long, long, "7ff09921"}, {"../..", "a/b\n", "..."}} {
		if name := vmName(parts...); name != filepath.Base(name) || len(name) > 190 || strings.HasPrefix(name, ".") || name == "" {
			t.Errorf("%q makes the name %q", parts, name)
		}
	}
	n := network{Mode: v1.NetworkIntnet, Namespace: "ns", Name: "net"}
	if got, ok := parseNetwork(n.id()); !ok || got != n {
		t.Errorf("%s is read as %+v", n.id(), got)
	}
	if n.internal("a") == n.internal("b") {
		t.Error("two instances share an internal network")
	}
}

func TestJudgements(t *testing.T) {
	for _, tc := range []struct {
		version, engine string
		want            providers.Severity
	}{
		{"7.2.22_Debianr175245", EngineDefault, providers.SeverityOK},
		{"7.2.0r1", EngineInterpreter, providers.SeverityOK},
		{"7.1.4r1", EngineDefault, providers.SeverityWarning},
		{"7.0.0r1", EngineInterpreter, providers.SeverityMissing},
		{"6.1.50r1", EngineDefault, providers.SeverityMissing},
		{"8.0.1", EngineDefault, providers.SeverityOK},
		{"nonsense", EngineDefault, providers.SeverityWarning},
	} {
		if got := judgeVersion(tc.version, tc.engine); got.Severity != tc.want || got.Message == "" {
			t.Errorf("%s: %+v", tc.version, got)
		}
	}
	o := Options{SubnetPool: netip.MustParsePrefix("10.9.0.0/16")}
	for _, tc := range []struct {
		loaded bool
		conf   string
		has    bool
		want   providers.Severity
	}{
		{false, "", false, providers.SeverityWarning},
		{true, "", false, providers.SeverityWarning},
		{true, "# ranges\n* 10.0.0.0/8 192.168.0.0/16\n* 2001::/64", true, providers.SeverityOK},
		{true, "* 10.9.0.0/24", true, providers.SeverityWarning},
	} {
		if got := judgeHostOnly(o, tc.loaded, tc.conf, tc.has); got.Severity != tc.want {
			t.Errorf("%+v: %+v", tc, got)
		}
	}
	if got := judgeDriver(EngineDefault, false); got.Severity != providers.SeverityMissing {
		t.Errorf("without a driver: %+v", got)
	}
}

func TestControlErrors(t *testing.T) {
	for message, want := range map[string]error{
		"Waiting for guest process failed: The specified user was not able to logon on guest": guestcontrol.ErrLogin,
		"Guest Additions are not installed or not ready (yet)":                                guestcontrol.ErrNotReady,
		"Error starting guest session (current status is: terminated)":                        guestcontrol.ErrUnusable,
		`No such file or directory "/bin/sh" on guest`:                                        guestcall.ErrGuestLacks,
	} {
		err := controlError(providers.Errorf(providers.ErrUnavailable, "machine x", "%w", &vboxmanage.Failure{Code: vboxmanage.CodeIPRT, Message: message}))
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", message, err)
		}
	}
	err := controlError(providers.Errorf(providers.ErrUnavailable, "x", "%w", &vboxmanage.Failure{Code: vboxmanage.CodeGuestControl, Message: "other"}))
	if errors.Is(err, guestcontrol.ErrNotReady) {
		t.Errorf("by its code: %v", err)
	}
	kind := guestError(t.Context(), "machine x", controlError(&vboxmanage.Failure{Message: "not able to logon on guest"}))
	if !providers.IsTerminal(kind) || !strings.Contains(kind.Error(), "Secret") {
		t.Errorf("a wrong password is %v", kind)
	}
}

func TestOptions(t *testing.T) {
	good := Options{Instance: "i", DataDir: "/x"}
	for name, spoil := range map[string]func(*Options){
		"no instance": func(o *Options) { o.Instance = "" }, "relative": func(o *Options) { o.DataDir = "x" },
		"engine": func(o *Options) { o.Engine = "fast" }, "home": func(o *Options) { o.UserHome = "x" },
		"pool": func(o *Options) { o.SubnetPool = netip.MustParsePrefix("10.0.0.0/30") },
	} {
		o := good
		spoil(&o)
		if _, err := o.withDefaults(); !errors.Is(err, providers.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := good.withDefaults(); err != nil {
		t.Error(err)
	}
}
