package crash_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// row of the table: one operation, or a sum of them.
type row struct {
	name                                   string
	points                                 [columns]int
	killed, converged, orphans, duplicates int
	foreign, lost                          int
	runs                                   int
	longest                                time.Duration
}

func (r *row) add(o outcome) {
	r.runs++
	if o.killed {
		r.killed++
		if o.converged {
			r.converged++
		}
	}
	r.orphans += len(o.findings.orphans)
	r.duplicates += len(o.findings.duplicates)
	r.foreign += len(o.findings.foreign)
	r.lost += len(o.lost)
}

func (r *row) sum(o row) {
	for c := range columns {
		r.points[c] += o.points[c]
	}
	r.runs += o.runs
	r.killed += o.killed
	r.converged += o.converged
	r.orphans += o.orphans
	r.duplicates += o.duplicates
	r.foreign += o.foreign
	r.lost += o.lost
}

const heading = "operation           |       provider calls       |  store writes  |      |        |           |         |            |         |\n" +
	"                    |  before   inside    after  | before   after | runs | killed | converged | orphans | duplicates | foreign | lost\n"

func (r row) String() string {
	return fmt.Sprintf("%-19s | %7d  %7d  %7d  | %6d  %6d | %4d | %6d | %9d | %7d | %10d | %7d | %4d\n", r.name,
		r.points[providerBefore], r.points[providerInside], r.points[providerAfter], r.points[storeBefore], r.points[storeAfter],
		r.runs, r.killed, r.converged, r.orphans, r.duplicates, r.foreign, r.lost)
}

// matrix prints its rows.
func printMatrix(t *testing.T, title string, rows []row) {
	t.Helper()
	var b strings.Builder
	total := row{name: "all"}
	fmt.Fprintf(&b, "\n%s\n%s%s\n", title, heading, strings.Repeat("-", 137))
	for _, r := range rows {
		b.WriteString(r.String())
		total.sum(r)
	}
	b.WriteString(strings.Repeat("-", 137) + "\n" + total.String())
	fmt.Println(b.String())
}

// whole tells that every point is wanted, not a sample.
func whole() bool { return os.Getenv("SANDBOXD_CRASH_MATRIX") == "all" }

// TestMatrix kills the control plane on a simulated host.
func TestMatrix(t *testing.T) {
	every := 29
	switch {
	case whole():
		every = 1
	case raced || testing.Short():
		every = 67
	}
	var rows []row
	for _, op := range operations() {
		if only := os.Getenv("SANDBOXD_CRASH_OPERATION"); only != "" && only != op.name {
			continue
		}
		t.Run(op.name, func(t *testing.T) { rows = append(rows, liveAll(t, op, every)) })
	}
	printMatrix(t, "on a simulated host", rows)
}

// sampled counts the points of all operations: few are left out in a row.
var sampled atomic.Int64

// lived lives an operation on a new simulated host.
func lived(op operation, at point, dir string) outcome {
	h, err := simulate(dir)
	if err != nil {
		return outcome{err: err}
	}
	return live(op, at, h)
}

// liveAll lives an operation once for every so many-th of its points.
func liveAll(t *testing.T, op operation, every int) row {
	first := lived(op, point{}, t.TempDir())
	if first.err != nil {
		t.Fatalf("without a death: %v", first.err)
	}
	r := row{name: op.name, points: first.points}
	var points []point
	for c := range columns {
		for n := 1; n <= first.points[c]; n++ {
			points = append(points, point{c, n})
		}
	}
	var mu sync.Mutex
	slots := make(chan struct{}, 4*runtime.GOMAXPROCS(0))
	var running sync.WaitGroup
	for i := range points {
		if sampled.Add(1)%int64(every) != 0 {
			continue
		}
		at, dir := points[i], t.TempDir()
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			began := time.Now()
			o := lived(op, at, dir)
			mu.Lock()
			defer mu.Unlock()
			r.add(o)
			r.longest = max(r.longest, time.Since(began))
			if o.err != nil || len(o.lost) > 0 || !o.findings.none() {
				t.Errorf("killed at %s: %v; %v; lost %q", o.where, o.err, o.findings, o.lost)
			}
			// It may have fewer points than the first one had, which may have been slower
			// and looked for garbage more often; but at its own it dies.
			if o.err == nil && !o.killed && o.points[at.column] >= at.n {
				t.Errorf("it passed %s alive: %v", at, o.points)
			}
		})
	}
	running.Wait()
	t.Logf("%d of %d points, the longest life %v", r.runs, len(points), r.longest)
	return r
}
