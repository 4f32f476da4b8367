package storetest

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/store"
)

const (
	// crashRounds is how often the writer is killed.
	crashRounds = 25
	// creationRounds is how often a child is killed that makes new stores.
	creationRounds = 6
	// crashWorkers is how many goroutines of the child write.
	crashWorkers = 8
	// maxDelay is how long a child lives at most after its first word.
	maxDelay = 60 * time.Millisecond
)

// Crash checks that a store survives the death of its process.
//
//	parent                            child: the same test binary and test
//	  start ───────────────────────────▶ open the store, write from many
//	  note acknowledgements  ◀── pipe ── one line for each
//	  SIGKILL at a random moment ──────▶ †
//	  open the store: all that was acknowledged or seen is there, nothing
//	  else but what was under way, and the next round goes on from it
//
// The kernel lives on, so this is about what a process does in which order, not
// about fsync. Open opens the store of a directory, which is empty at first. It
// must be called in the same way from the same test in every process: call
// Crash first thing in a test of its own.
func Crash(t *testing.T, open func(dir string) (store.Store, error)) {
	if mode := os.Getenv(envMode); mode != "" {
		runChild(mode, open) // does not return
	}
	t.Run("writing", func(t *testing.T) { crashWriting(t, open) })
	t.Run("creating", func(t *testing.T) { crashCreating(t, open) })
}

// crashWriting kills a child that writes, again and again, on one store.
func crashWriting(t *testing.T, open func(dir string) (store.Store, error)) {
	dir := t.TempDir()
	p := &progress{revisions: make(map[op]int64)}
	for round := range crashRounds {
		lines := runAndKill(t, "write", dir, p.start())
		if err := p.note(lines); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		s, err := open(dir)
		if err != nil {
			t.Fatalf("round %d: the store does not open after the crash: %v", round, err)
		}
		err = p.verify(t, s)
		if closed := s.Close(); err == nil {
			err = closed
		}
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	t.Logf("%d writes survived %d crashes", p.revision, crashRounds)
}

// crashCreating kills a child that makes one store after the other.
func crashCreating(t *testing.T, open func(dir string) (store.Store, error)) {
	made := 0
	for round := range creationRounds {
		dir := t.TempDir()
		acked := make(map[string]string) // the instance of a directory's store
		for _, line := range runAndKill(t, "create", dir, "") {
			name, instance, found := strings.Cut(line, " ")
			if !found {
				t.Fatalf("round %d: the child said %q", round, line)
			}
			acked[name] = instance
		}
		stores, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range stores {
			s, err := open(filepath.Join(dir, d.Name()))
			if err != nil {
				t.Fatalf("round %d: a store that was being made does not open: %v", round, err)
			}
			if want, found := acked[d.Name()]; found && s.InstanceID() != want {
				t.Errorf("round %d: the instance ID is %q, was %q", round, s.InstanceID(), want)
			}
			delete(acked, d.Name())
			made++
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		if len(acked) > 0 {
			t.Errorf("round %d: stores that were made are gone: %v", round, acked)
		}
	}
	t.Logf("%d stores survived %d crashes", made, creationRounds)
}

// runAndKill starts a child, kills it at a random moment after its first line
// and returns all of its lines.
func runAndKill(t *testing.T, mode, dir, start string) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The test that called Crash, not the subtest of the parent.
	test, _, _ := strings.Cut(t.Name(), "/")
	var output bytes.Buffer
	child := exec.CommandContext(t.Context(), self, "-test.run=^"+test+"$", "-test.timeout=5m")
	child.Env = append(os.Environ(), envMode+"="+mode, envDir+"="+dir, envStart+"="+start)
	child.Stdout, child.Stderr = &output, &output
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	child.ExtraFiles = []*os.File{w} // its descriptor 3
	err = child.Start()
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		if lines = append(lines, scanner.Text()); len(lines) == 1 {
			timer := time.AfterFunc(rand.N(maxDelay), func() { _ = child.Process.Kill() })
			defer timer.Stop()
		}
	}
	_ = child.Wait() // it was killed
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	if state := child.ProcessState.String(); state != "signal: killed" {
		t.Fatalf("the child was not killed but ended (%s) after %d lines:\n%s", state, len(lines), &output)
	}
	return lines
}

// progress is what the parent knows of the child's writes.
type progress struct {
	instance  string
	done      [crashWorkers]int // how many writes of each worker are in the store
	revision  int64             // of the store when it was last opened
	seen      int64             // the greatest revision that the child saw
	revisions map[op]int64      // of acknowledged writes
}

// op is the n-th write of a worker, from 1.
type op struct{ worker, n int }

// start tells a child where to go on.
func (p *progress) start() string {
	counts := make([]string, crashWorkers)
	for i, n := range p.done {
		counts[i] = strconv.Itoa(n)
	}
	return strings.Join(counts, ",")
}

// note reads a child's lines: "ack WORKER N REVISION" or "saw REVISION".
func (p *progress) note(lines []string) error {
	for _, line := range lines {
		var o op
		var revision int64
		if _, err := fmt.Sscanf(line, "saw %d", &revision); err == nil {
			p.seen = max(p.seen, revision)
			continue
		}
		_, err := fmt.Sscanf(line, "ack %d %d %d", &o.worker, &o.n, &revision)
		if err != nil || o.worker < 0 || o.worker >= crashWorkers {
			return fmt.Errorf("the child said %q", line)
		}
		if want := p.done[o.worker] + 1; o.n != want {
			return fmt.Errorf("%q: expected write %d", line, want)
		}
		p.done[o.worker] = o.n
		p.revisions[o] = revision
		p.seen = max(p.seen, revision)
	}
	return nil
}

// verify compares an opened store with what must be in it.
func (p *progress) verify(t *testing.T, s store.Store) error {
	if p.instance != "" && s.InstanceID() != p.instance {
		return fmt.Errorf("the instance ID is %q, was %q", s.InstanceID(), p.instance)
	}
	p.instance = s.InstanceID()
	if s.Revision() < max(p.seen, p.revision) {
		return fmt.Errorf("the store is at revision %d, the child saw %d, the store was at %d",
			s.Revision(), p.seen, p.revision)
	}
	p.revision = s.Revision()
	total := 0
	for worker := range crashWorkers {
		snapshot, err := s.List(t.Context(), crashResource, crashNamespace(worker))
		if err != nil {
			return err
		}
		// The write after the last acknowledged one may have happened.
		lost := p.compare(worker, p.done[worker], snapshot.Entries)
		if lost != nil && p.compare(worker, p.done[worker]+1, snapshot.Entries) == nil {
			p.done[worker]++
			lost = nil
		}
		if lost != nil {
			return fmt.Errorf("worker %d after %d acknowledged writes: %w", worker, p.done[worker], lost)
		}
		total += p.done[worker]
	}
	// Each write took one revision: nothing else happened.
	if p.revision != int64(total) {
		return fmt.Errorf("the store is at revision %d after %d writes", p.revision, total)
	}
	return nil
}

// compare holds a worker's entries against what n writes leave.
func (p *progress) compare(worker, n int, entries []store.Entry) error {
	want := stateAfter(n)
	if len(entries) != len(want) {
		return fmt.Errorf("%d entries, want %d", len(entries), len(want))
	}
	for _, entry := range entries {
		wrote, found := want[entry.Key.Name]
		if !found || !bytes.Equal(entry.Value, crashValue(worker, wrote)) {
			return fmt.Errorf("%s is not as write %d left it", entry.Key, wrote)
		}
		if acked, found := p.revisions[op{worker, wrote}]; found && acked != entry.Revision {
			return fmt.Errorf("%s has revision %d, acknowledged was %d", entry.Key, entry.Revision, acked)
		}
	}
	return nil
}
