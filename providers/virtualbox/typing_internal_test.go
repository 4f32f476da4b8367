package virtualbox

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// TestWireThatIsOver: whoever types when VirtualBox has closed its end of the socket, and
// listens there still, is connected anew. Once the serial port goes to the log, there is
// no connection.
func TestWireThatIsOver(t *testing.T) {
	p, dir := answering(t, "case $1 in showvminfo) cat vm ;; *) exit 1 ;; esac\n")
	info, r, _ := sound(v1.NetworkNone)
	r.Instance, r.VM, r.SharedFolders = "test", "web", nil
	r.Hashes = providers.Hashes{Hardware: "h", Network: "n", Forwards: "f", Seed: "s"}
	machine := filepath.Join(p.data.MachineDir(r.ID), r.VM)
	info["uartmode1"], info["name"], info["CfgFile"] = ttyMode(p.data.console(r.ID)), r.VM, filepath.Join(machine, "web.vbox")
	var shown strings.Builder
	for _, key := range sortedKeys(info) {
		fmt.Fprintf(&shown, "%s=%q\n", key, info[key])
	}
	err := errors.Join(os.MkdirAll(machine, 0o700), os.WriteFile(filepath.Join(dir, "vm"), []byte(shown.String()), 0o600), p.writeRecord(r))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", p.data.tty(r.ID))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	for range 3 {
		accepted := make(chan net.Conn, 1)
		go func() {
			if conn, err := listener.Accept(); err == nil {
				accepted <- conn
			}
		}()
		l, err := p.openLine(t.Context(), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(l, "typed"); err != nil {
			t.Error(err)
		}
		var conn net.Conn
		select {
		case conn = <-accepted:
		case <-l.Ended():
			t.Fatal("what is over is typed at again")
		}
		got := make([]byte, len("typed"))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != "typed" {
			t.Errorf("%q arrives, %v", got, err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		<-l.Ended()
	}
	// It was at the socket before anybody was connected, and never again without.
	if said, err := os.ReadFile(consoleParts(p.data.console(r.ID))[1]); err != nil || string(said) != gap {
		t.Errorf("the log says %q, %v", said, err)
	}
	text := strings.Replace(shown.String(), info["uartmode1"], logMode(p.data.console(r.ID)), 1)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "vm"), []byte(text), 0o600), p.settle(t.Context(), r.ID)); err != nil {
		t.Fatal(err)
	}
	if p.wires.get(r.ID) != nil {
		t.Error("the connection is kept")
	}
}

// TestTypingOfAnEarlierProcess: a sandboxd begins with the serial ports that an earlier one
// has left at sockets, and says in their logs that something may be missing.
func TestTypingOfAnEarlierProcess(t *testing.T) {
	p, dir := answering(t, `case $1 in
showvminfo) cat vm ;;
controlvm) [ "$3 $4" = "changeuartmode1 file" ] && sed -i "s,^uartmode1=.*,uartmode1=\"file\,$5\"," vm ;;
esac
`)
	info, r, _ := sound(v1.NetworkNone)
	r.Instance, r.VM, r.SharedFolders = "test", "web", nil
	machine := filepath.Join(p.data.MachineDir(r.ID), r.VM)
	log, tty := p.data.console(r.ID), p.data.tty(r.ID)
	info["VMState"], info["uartmode1"], info["name"], info["CfgFile"] = "running", ttyMode(log), r.VM, filepath.Join(machine, "web.vbox")
	var shown strings.Builder
	for _, key := range sortedKeys(info) {
		fmt.Fprintf(&shown, "%s=%q\n", key, info[key])
	}
	err := errors.Join(
		os.MkdirAll(machine, 0o700), os.WriteFile(filepath.Join(dir, "vm"), []byte(shown.String()), 0o600), p.writeRecord(r),
		os.WriteFile(tty, nil, 0o600), os.WriteFile(filepath.Join(p.data.ttys(), "no UUID"), nil, 0o600),
		os.WriteFile(consoleParts(log)[1], []byte("said before"), 0o600),
		p.Close(),
	)
	if err != nil {
		t.Fatal(err)
	}
	again, err := New(p.opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		vm, err := os.ReadFile(filepath.Join(dir, "vm"))
		if err == nil && strings.Contains(string(vm), logMode(log)) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the serial port stays at the socket: %s, %v", vm, err)
		}
	}
	want := "said before" + gap
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		said, err := os.ReadFile(consoleParts(log)[1])
		if err == nil && string(said) == want {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the log says %q, %v", said, err)
		}
	}
}

// TestGoesOffWhileTyped: what a machine showed that goes off while somebody types is in its
// log, which says nothing of a gap once it starts again. One that somebody else started
// since was connected with nobody, and that is said.
func TestGoesOffWhileTyped(t *testing.T) {
	for startedBy, want := range map[string]string{"us": "shown", "somebody else": "shown" + gap} {
		t.Run("started by "+startedBy, func(t *testing.T) {
			p, dir := answering(t, `case $1 in
showvminfo) cat vm ;;
controlvm) [ "$3 $4" = "changeuartmode1 file" ] && sed -i "s,^uartmode1=.*,uartmode1=\"file\,$5\"," vm ;;
modifyvm) [ "$3 $4" = "--uart-mode1 file" ] && sed -i "s,^uartmode1=.*,uartmode1=\"file\,$5\"," vm ;;
esac
`)
			info, r, _ := sound(v1.NetworkNone)
			r.Instance, r.VM, r.SharedFolders = "test", "web", nil
			machine := filepath.Join(p.data.MachineDir(r.ID), r.VM)
			log := p.data.console(r.ID)
			info["uartmode1"], info["name"], info["CfgFile"] = ttyMode(log), r.VM, filepath.Join(machine, "web.vbox")
			power := func(state string) {
				t.Helper()
				info["VMState"] = state
				var shown strings.Builder
				for _, key := range sortedKeys(info) {
					fmt.Fprintf(&shown, "%s=%q\n", key, info[key])
				}
				if err := os.WriteFile(filepath.Join(dir, "vm"), []byte(shown.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(os.MkdirAll(machine, 0o700), p.writeRecord(r)); err != nil {
				t.Fatal(err)
			}
			power("running")
			ours, theirs := net.Pipe()
			kept, err := os.Create(consoleParts(log)[1])
			if err != nil {
				t.Fatal(err)
			}
			w := &wire{conn: ours, log: kept, ended: make(chan struct{})}
			go w.carry(t.Context())
			p.wires.of[r.ID] = w
			if _, err := io.WriteString(theirs, "shown"); err != nil {
				t.Fatal(err)
			}
			power(statePoweroff)
			if err := errors.Join(theirs.Close(), p.settle(t.Context(), r.ID)); err != nil {
				t.Fatal(err)
			}
			if startedBy != "us" {
				power("running")
			}
			m, err := p.look(t.Context(), r.ID)
			if err == nil {
				m, err = p.toLog(t.Context(), m)
			}
			if err != nil || p.typed(m) {
				t.Errorf("the serial port goes to %s, %v", m.info["uartmode1"], err)
			}
			if said, err := os.ReadFile(consoleParts(log)[1]); err != nil || string(said) != want {
				t.Errorf("the log says %q, %v, not %q", said, err, want)
			}
		})
	}
}
