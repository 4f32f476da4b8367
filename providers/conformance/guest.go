package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// sharedFolders are the host's directories that the shared guest is offered.
type sharedFolders struct{ readOnly, writable string }

// guest returns the shared guest: made and booted once, with a network and
// shared folders where the backend has them.
func (s *suite) guest(t *testing.T) types.UID {
	t.Helper()
	if s.shared != "" {
		s.waitAgent(t, s.shared)
		return s.shared
	}
	spec := s.clone(t, s.guests, "guest")
	spec.ID = types.UID(uuidOf(string(s.instance), "guest"))
	if s.has(Mode(v1.NetworkNAT)) {
		spec.Network.Mode = v1.NetworkNAT
	}
	if s.has(SharedFolders) {
		s.folders = sharedFolders{s.b.Folder(s.root), s.b.Folder(s.root)}
		no := false
		spec.SharedFolders = []v1.SharedFolder{
			{Name: "inputs", HostPath: s.folders.readOnly},
			{Name: "outputs", HostPath: s.folders.writable, ReadOnly: &no, MountPath: "/mnt/deep/outputs"},
		}
	}
	s.shared, s.sharedSpec = spec.ID, spec
	s.ensure(t, spec)
	s.reports(t, providers.EventGuest, spec.ID, func() { s.boot(t, spec.ID) })
	return spec.ID
}

func (s *suite) testGuest(t *testing.T) {
	t.Run("an agent that connects is reported", func(t *testing.T) { s.guest(t) })
	s.testExec(t)
	s.testFiles(t)
	t.Run("Console delivers the log of the boot", s.testConsoleBoot)
	t.Run("Console follows what is written until the context ends", s.testConsoleFollow)
	t.Run("Console starts so many bytes before the end", s.testConsoleTail)
	t.Run("TypeAtConsole types for all who do, and the log goes on", s.testConsoleTyped)
	t.Run("ConfigureGuest replaces the ssh keys", s.testKeys)
	t.Run("ConfigureGuest is ErrInvalid for what the guest does not have", s.testBadConfig)
	t.Run("ConfigureGuest mounts folders, and read-only is enforced", s.testMounts)
	t.Run("a guest with an address has it observed", s.testAddresses)
	t.Run("a new process finds the guest as it is", s.testReopenGuest)
}

// outcome is what came of a command.
type outcome struct {
	providers.ExecResult
	stdout, stderr string
}

// exec runs a command and keeps its output.
func (s *suite) exec(t testing.TB, id types.UID, req providers.ExecRequest) outcome {
	t.Helper()
	var stdout, stderr bounded
	req.Stdout, req.Stderr = &stdout, &stderr
	r, err := s.p.Exec(within(t, s.b.Limits.Boot), id, req)
	if err != nil {
		t.Fatalf("exec %.200q: %v", req.Command, err)
	}
	return outcome{r, stdout.String(), stderr.String()}
}

// sh runs a script that has to succeed and returns its output without the
// newline at the end.
func (s *suite) sh(t testing.TB, id types.UID, script string, args ...string) string {
	t.Helper()
	o := s.try(t, id, script, args...)
	if o.ExitCode != 0 {
		t.Fatalf("%s: exit code %d, output %q, %q", script, o.ExitCode, o.stdout, o.stderr)
	}
	return strings.TrimSuffix(o.stdout, "\n")
}

// try runs a script that may fail.
func (s *suite) try(t testing.TB, id types.UID, script string, args ...string) outcome {
	t.Helper()
	return s.exec(t, id, providers.ExecRequest{Command: append([]string{"sh", "-c", script, "sh"}, args...)})
}

// put writes a file of the guest.
func (s *suite) put(t testing.TB, id types.UID, path, content string) {
	t.Helper()
	err := s.p.WriteFile(s.ctx(t), id, path, 0o644, strings.NewReader(content))
	must(t, "write "+path, err)
}

// tempDir returns an empty directory of the shared guest. They are made for all
// tests at once: in a slow guest each command counts.
func (s *suite) tempDir(t testing.TB, id types.UID) string {
	t.Helper()
	if len(s.dirs) == 0 {
		for i := range 32 {
			s.dirs = append(s.dirs, fmt.Sprintf("/root/conformance-%d-%d", s.batches, i))
		}
		s.batches++
		s.sh(t, id, `mkdir "$@"`, s.dirs...)
	}
	dir := s.dirs[0]
	s.dirs = s.dirs[1:]
	return dir
}

// bounded is a buffer that takes so much and no more. It may be written to by
// several goroutines.
type bounded struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// maxOutput is far more than any test expects.
const maxOutput = 64 << 20

func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.buf.Len()+len(p) > maxOutput {
		return 0, errOwn
	}
	return b.buf.Write(p)
}

func (b *bounded) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// zeros reads as so many zero bytes.
type zeros struct{ left int }

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), z.left)
	clear(p[:n])
	z.left -= n
	return n, nil
}

// pattern is binary content that is the same each time: every byte value
// occurs, and no part repeats soon.
func pattern(n int) string {
	b := make([]byte, n)
	x := uint32(2463534242)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return string(b)
}

func (s *suite) testAddresses(t *testing.T) {
	s.need(t, Mode(v1.NetworkNAT))
	id := s.guest(t)
	eventually(t, s.b.Limits.Boot, func() string {
		for _, a := range s.get(t, id).Addresses {
			if a.IP != "" && a.Source != "" {
				return ""
			}
		}
		return "no address was observed"
	})
}

func (s *suite) testReopenGuest(t *testing.T) {
	id := s.guest(t)
	dir := s.tempDir(t, id)
	before := s.get(t, id)
	s.put(t, id, dir+"/file", "kept")
	s.reopen(t)
	s.waitAgent(t, id)
	if m := s.get(t, id); m.Hashes != before.Hashes || m.Power != providers.PowerRunning {
		t.Errorf("a new process sees %+v, the last saw %+v", m, before)
	}
	if got := s.sh(t, id, `cat "$1"`, dir+"/file"); got != "kept" {
		t.Errorf("the file holds %q", got)
	}
	if _, err := s.p.Exec(s.ctx(t), s.id(t, "nothing"), providers.ExecRequest{Command: []string{"true"}}); !errors.Is(err, providers.ErrNotFound) {
		t.Errorf("exec on no machine: %v", err)
	}
}
