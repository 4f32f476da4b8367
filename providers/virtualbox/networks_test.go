package virtualbox_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
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
	asSomebody(t, append([]string{"modifyvm", string(id)}, open...)...) // while it is off
	must(t, l.run(t.Context(), spec))
	if m := l.get(t, id); m.Power != providers.PowerRunning || !m.Network.Isolated {
		t.Errorf("opened by hand and started again, it is %+v", m)
	}
}

// TestChangedBeforeStart: a machine made just now and then changed does not start,
// even if its file is as it was made: what counts is what VirtualBox will run.
func TestChangedBeforeStart(t *testing.T) {
	l := newLab(t)
	spec := l.spec("machine")
	id := l.made(t, spec)
	definitions, err := filepath.Glob(filepath.Join(l.root, "data-lab", "machines", string(id), "*", "*.vbox"))
	if err != nil || len(definitions) != 1 {
		t.Fatalf("the definitions are %q, %v", definitions, err)
	}
	info, err := os.Stat(definitions[0])
	must(t, err)
	content, err := os.ReadFile(definitions[0])
	must(t, err)
	manage(t, "modifyvm", string(id), "--nic2", "nat")
	must(t, os.WriteFile(definitions[0], content, 0o600))
	must(t, os.Chtimes(definitions[0], info.ModTime(), info.ModTime()))
	if err := l.p.Start(t.Context(), id); !errors.Is(err, providers.ErrUnavailable) || !strings.Contains(err.Error(), "network card 2") {
		t.Errorf("started with a second card: %v", err)
	}
	if m := l.get(t, id); m.OffReason != providers.OffNeverStarted {
		t.Errorf("it was run: %+v", m)
	}
	must(t, l.run(t.Context(), spec))
	manage(t, "controlvm", string(id), "poweroff")
	eventually(t, "a card can be added", func() bool { return tryManage("modifyvm", string(id), "--nic2", "nat") == nil })
	manage(t, "startvm", string(id), "--type", "headless") // by somebody
	if err := l.p.Start(t.Context(), id); !errors.Is(err, providers.ErrUnavailable) || l.get(t, id).Power != providers.PowerOff {
		t.Errorf("what somebody started with a second card goes on running: %v", err)
	}
}

// TestStartCutOff: a machine that was started by a daemon which died at once, and
// that could not open its port, is found by the next one.
func TestStartCutOff(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	spec := l.spec("machine")
	spec.Network = v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{{Name: "ssh", GuestPort: 22}}}
	id := l.made(t, spec)
	f := l.get(t, id).PortForwards[0]
	recorded := filepath.Join(l.root, "data-lab", "machines", string(id), "record.json")
	cut := func(before func()) {
		starting := false
		l.p.OnStep(func() {
			if starting {
				runtime.Goexit() // the first change after startvm
			}
			b, err := os.ReadFile(recorded)
			if starting = err == nil && strings.Contains(string(b), `"starting": true`); starting {
				before()
			}
		})
		defer l.p.OnStep(nil)
		done := make(chan struct{})
		go func() {
			defer close(done)
			t.Errorf("the start was not cut off: %v", l.p.Start(ctx, id))
		}()
		<-done
	}

	var taken net.Listener
	cut(func() {
		var err error
		if taken, err = net.Listen("tcp", net.JoinHostPort(f.HostAddress, strconv.Itoa(int(f.HostPort)))); err != nil {
			t.Error(err)
		}
	})
	if m := l.get(t, id); m.Power != providers.PowerRunning || m.Hashes == spec.Hashes() {
		t.Errorf("nobody confirmed it, and it is %+v", m)
	}
	if err := l.p.EnsureMachine(ctx, spec); !errors.Is(err, providers.ErrBusy) || l.get(t, id).Power != providers.PowerOff {
		t.Errorf("it runs without its port: %v", err)
	}
	must(t, taken.Close())

	must(t, l.p.EnsureMachine(ctx, spec))
	cut(func() {})
	must(t, l.p.EnsureMachine(ctx, spec))
	if m := l.get(t, id); m.Power != providers.PowerRunning || m.Hashes != spec.Hashes() || !m.Network.Isolated {
		t.Errorf("confirmed, it is %+v", m)
	}
}

// TestForwardsCutOff: a change of fixed host ports that is cut off anywhere can be
// finished, and taken back.
func TestForwardsCutOff(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	spec := l.spec("machine")
	spec.Network = v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{{Name: "a", GuestPort: 22}, {Name: "b", GuestPort: 80}}}
	id := l.made(t, spec)
	must(t, l.p.Start(ctx, id))
	had := l.get(t, id).PortForwards
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	next := int32(free.Addr().(*net.TCPAddr).Port)
	must(t, free.Close())
	with := func(port int32) providers.MachineSpec {
		s := spec
		s.Network.PortForwards = []v1.PortForward{{Name: "a", HostPort: port, GuestPort: 22}, {Name: "b", HostPort: had[1].HostPort, GuestPort: 80}}
		return s
	}
	old, changed := with(had[0].HostPort), with(next)
	must(t, l.p.EnsureMachine(ctx, old))
	for n, completed := 1, false; !completed; n++ {
		for _, end := range []providers.MachineSpec{changed, old} {
			completed = interrupt(l.p.Provider, n, func() { must(t, l.p.EnsureMachine(ctx, changed)) })
			if err := l.p.EnsureMachine(ctx, end); err != nil {
				t.Fatalf("cut off at step %d: %v", n, err)
			}
			m := l.get(t, id)
			if m.Hashes != end.Hashes() || !m.Network.Isolated || m.PortForwards[0].HostPort != end.Network.PortForwards[0].HostPort {
				t.Errorf("cut off at step %d: %+v", n, m)
			}
			must(t, l.p.EnsureMachine(ctx, old))
		}
		interrupt(l.p.Provider, n, func() { _ = l.p.EnsureMachine(ctx, changed) })
		must(t, l.p.Start(ctx, id))
		if m := l.get(t, id); m.Power != providers.PowerRunning || !m.Network.Isolated {
			t.Errorf("cut off at step %d and started: %+v", n, m)
		}
		must(t, l.p.EnsureMachine(ctx, old))
	}
}
