package crash_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// sample is how often an operation is lived on a real hypervisor.
type sample struct {
	op     operation
	points int
	// victim is a command that ends something else than the daemon, and as what the
	// table calls that.
	victim, as string
}

// sampleAll lives operations on a hypervisor, each on a new data folder, and prints
// the table.
func sampleAll(t *testing.T, title string, fresh func(t *testing.T, victim string) ground, samples []sample) {
	t.Helper()
	var rows []row
	for _, s := range samples {
		r := row{name: s.op.name}
		if s.as != "" {
			r.name = s.as
		}
		if only := os.Getenv("SANDBOXD_CRASH_OPERATION"); only != "" && only != r.name {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			first := live(s.op, point{}, fresh(t, ""))
			if first.err != nil {
				t.Fatalf("without a death: %v", first.err)
			}
			r.points = first.points
			var all []point
			for c := range columns {
				if s.victim != "" && c != providerBefore {
					continue // libvirt is asked next
				}
				// The last ones may not come every time.
				for n := 1; n <= (first.points[c]*3+3)/4; n++ {
					all = append(all, point{c, n})
				}
			}
			n := s.points
			if testing.Short() {
				n = 1
			}
			for i := range n {
				at := all[(2*i+1)*len(all)/(2*n)]
				t.Run(at.String(), func(t *testing.T) {
					began := time.Now()
					o := live(s.op, at, fresh(t, s.victim))
					r.add(o)
					if o.err != nil || !o.findings.none() {
						t.Errorf("killed at %s: %v; %v", o.where, o.err, o.findings)
					}
					t.Logf("killed: %v at %s, %v", o.killed, o.where, time.Since(began).Round(time.Millisecond))
				})
			}
			if r.killed*2 < r.runs {
				t.Errorf("it was killed in %d of %d lives only", r.killed, r.runs)
			}
			rows = append(rows, r)
		})
	}
	printMatrix(t, title, rows)
}

// realOperation is one that real hypervisors are in, on machines without a guest
// that is waited for unless it says so.
func realOperation(name string) operation {
	img := deed{create(goldenImage("golden")), isReady("golden")}
	box := func(changes ...func(*v1.Sandbox)) *v1.Sandbox { return sandbox("box", append(changes, idle)...) }
	made := []deed{img, {create(box()), isReady("box")}}
	guest := []deed{img, {create(sandbox("box")), marked("box", "kept")}}
	snapped := func(before []deed) []deed {
		return append(slices.Clone(before), deed{create(newSnapshot("snap", "box", false)), all(isReady("snap"), isReady("box"))})
	}
	for _, op := range []operation{
		{
			name: "create", before: []deed{img},
			deeds: []deed{{create(box(natted(8080))), isReady("box")}}, check: all(powered("box", providers.PowerRunning), listens("box", 1)),
		},
		{
			name: "create, no network", before: []deed{img},
			deeds: []deed{{create(box()), isReady("box")}}, check: powered("box", providers.PowerRunning),
		},
		{
			name: "update: forwards", before: []deed{img, {create(box(natted(8080))), isReady("box")}},
			deeds: []deed{{update("box", natted(8081, 8082)), isReady("box")}}, check: listens("box", 2),
		},
		{
			name: "update: network", before: made,
			deeds: []deed{{update("box", natted(8080)), isReady("box")}}, check: listens("box", 1),
		},
		{
			name: "suspend", before: made,
			deeds: []deed{{power("box", v1.PowerSuspended), is("box", v1.SandboxSuspended)}}, check: powered("box", providers.PowerSaved),
		},
		{
			name: "revert", before: snapped(made),
			deeds: []deed{{update("box", revertTo("snap")), reverted("box")}}, check: powered("box", providers.PowerRunning),
		},
		{
			name: "delete", before: append(snapped(made), deed{create(sandbox("other", idle)), isReady("other")}),
			deeds: []deed{{remove(box()), all(gone(box()), gone(newSnapshot("snap", "box", false)))}},
			check: powered("other", providers.PowerRunning),
		},
		{
			name:  "image: import",
			deeds: []deed{img},
		},
		{
			name: "stop, with a guest", before: guest,
			deeds: []deed{{power("box", v1.PowerStopped), is("box", v1.SandboxStopped)}, {power("box", v1.PowerRunning), isReady("box")}},
			check: holds("box", "kept"),
		},
		{
			name: "revert, with a guest", before: append(snapped(guest), deed{nothing, marked("box", "lost")}),
			deeds: []deed{{update("box", revertTo("snap")), reverted("box")}},
			check: holds("box", "kept"),
		},
	} {
		if op.name == name {
			return op
		}
	}
	panic("there is no operation " + name)
}

// idle is a sandbox whose guest is not waited for.
func idle(s *v1.Sandbox) { s.Spec.Readiness.Mode = v1.ReadinessNone }

// listens tells whether as many port forwards accept connections.
func listens(name string, n int) func(stage) error {
	return func(s stage) error {
		box, err := s.sandbox(name)
		if err != nil {
			return err
		}
		if len(box.Status.PortForwards) != n {
			return fmt.Errorf("%s: %d forwards, want %d", name, len(box.Status.PortForwards), n)
		}
		for _, f := range box.Status.PortForwards {
			c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", f.HostPort), 10*time.Second)
			if err != nil {
				return err
			}
			_ = c.Close()
		}
		return nil
	}
}

// folder is one that QEMU's user may pass through.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sandboxd-crash-")
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "daemon.log"))
			t.Logf("daemon log:\n%s", log[max(0, len(log)-20000):])
		}
		must(t, os.RemoveAll(dir))
	})
	return dir
}

func tinyImage(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("SANDBOXD_TINY_IMAGE"); path != "" {
		return path
	}
	cache, err := os.UserCacheDir()
	must(t, err)
	return filepath.Join(cache, "sandboxd", "tiny.qcow2")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
