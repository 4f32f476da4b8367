package virtualbox_test

import (
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// TestLoopbackStaysClosed: VirtualBox forgets, with each VBoxSVC, that a machine
// on NAT must not reach the host's loopback addresses. No machine runs with them
// open, and one that is off or saved is not taken for changed.
func TestLoopbackStaysClosed(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	spec := l.spec("machine")
	spec.Network = v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{
		{Name: "tcp", GuestPort: 22}, {Name: "udp", Protocol: v1.ProtocolUDP, HostAddress: "0.0.0.0", GuestPort: 53},
	}}
	id := l.made(t, spec)
	reachable := func() bool {
		return strings.Contains(manage(t, "showvminfo", string(id), "--machinereadable"), `localhostReachable="1"`)
	}
	wantClosed := func(when string) {
		t.Helper()
		m := l.get(t, id)
		if m.Power != providers.PowerRunning || !m.Network.Isolated || m.Network.Beyond == "" || reachable() {
			t.Errorf("%s: %+v", when, m)
		}
	}
	killSVC(t)
	if !reachable() {
		t.Log("this VirtualBox remembers the setting")
	}
	if m := l.get(t, id); m.Hashes != spec.Hashes() {
		t.Errorf("off, it is taken for changed: %s", m.Network.Detail)
	}
	must(t, l.p.Start(ctx, id))
	wantClosed("started")
	for _, f := range l.get(t, id).PortForwards {
		if f.Protocol != v1.ProtocolTCP {
			continue
		}
		if c, err := net.Dial("tcp", net.JoinHostPort(f.HostAddress, strconv.Itoa(int(f.HostPort)))); err != nil {
			t.Errorf("port forward %s: %v", f.Name, err)
		} else {
			_ = c.Close()
		}
	}
	spec.Network.PortForwards = append(spec.Network.PortForwards, v1.PortForward{Name: "more", GuestPort: 80})
	must(t, l.p.EnsureMachine(ctx, spec))
	if m := l.get(t, id); len(m.PortForwards) != 3 || m.Hashes != spec.Hashes() {
		t.Errorf("with one forward more: %+v", m)
	}
	must(t, l.p.Suspend(ctx, id))
	killSVC(t)
	must(t, l.p.Start(ctx, id))
	wantClosed("resumed")
}

// TestOpenedNAT: what the NAT of an adopted machine offers, its clones do not.
func TestOpenedNAT(t *testing.T) {
	l := newLab(t)
	dir, golden := t.TempDir(), string(newID())
	manage(t, "createvm", "--name", "opened", "--uuid", golden, "--basefolder", dir, "--register")
	t.Cleanup(func() { manage(t, "unregistervm", golden, "--delete") })
	vdi := filepath.Join(dir, "opened.vdi")
	run(t, "qemu-img", "convert", "-O", "vdi", haltDisk(t).Path, vdi)
	manage(t, "storagectl", golden, "--name", "IDE", "--add", "ide")
	manage(t, "storageattach", golden, "--storagectl", "IDE", "--port", "0", "--device", "0", "--type", "hdd", "--medium", vdi)
	open := []string{"--nat-localhostreachable1", "on", "--nat-enable-tftp1", "on", "--nat-forward-broadcast1", "on"}
	manage(t, append([]string{"modifyvm", golden, "--memory", "32", "--nic1", "nat"}, open...)...)
	spec := l.spec("clone")
	spec.Image = l.imported(t, v1.ImageSource{Machine: &v1.MachineSource{Name: golden, Snapshot: "clean"}})
	spec.Network.Mode = v1.NetworkNAT
	id := l.made(t, spec)
	must(t, l.p.Start(t.Context(), id))
	if m := l.get(t, id); m.Power != providers.PowerRunning || !m.Network.Isolated {
		t.Errorf("the clone is %+v", m)
	}
	for _, key := range []string{"localhostReachable", "enableTFTP", "forwardBroadcast"} {
		if info := manage(t, "showvminfo", string(id), "--machinereadable"); !strings.Contains(info, key+`="0"`) {
			t.Errorf("%s is not off", key)
		}
	}
	must(t, l.p.Stop(t.Context(), id, providers.StopForce))
	manage(t, append([]string{"modifyvm", string(id)}, open...)...) // by somebody, while it is off
	must(t, l.run(t.Context(), spec))
	if m := l.get(t, id); m.Power != providers.PowerRunning || !m.Network.Isolated {
		t.Errorf("opened by hand and started again, it is %+v", m)
	}
}
