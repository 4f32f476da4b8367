package apiserver_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/apiserver"
)

// unixHTTP serves on a unix socket and returns an HTTP client for it.
func unixHTTP(b testing.TB, s *apiserver.Server) *http.Client {
	b.Helper()
	path := filepath.Join(b.TempDir(), "api.sock")
	stop := serveUnix(b, s, path)
	transport := &http.Transport{
		MaxIdleConnsPerHost: 64,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}
	b.Cleanup(func() { transport.CloseIdleConnections(); stop() })
	return &http.Client{Transport: transport}
}

// send makes a request and returns the body of its answer.
func send(b testing.TB, c *http.Client, method, path, media, body string) []byte {
	r, err := http.NewRequest(method, "http://sandboxd"+path, strings.NewReader(body))
	if err != nil {
		b.Error(err)
		return nil
	}
	r.Header.Set("Content-Type", media)
	response, err := c.Do(r)
	if err != nil {
		b.Error(err)
		return nil
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode >= 300 {
		b.Errorf("%s %s answered %d: %s (%v)", method, path, response.StatusCode, raw, err)
	}
	return raw
}

func sandboxJSON(name string) string {
	raw, err := json.Marshal(sandbox(name))
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// cpuTime is what this process has used of the processors.
func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// writers runs work, which makes a number of writes, in n goroutines until b.N
// calls are done.
func writers(b *testing.B, n, writes int, work func(i int)) {
	var next atomic.Int64
	var running sync.WaitGroup
	before := cpuTime(b)
	b.ResetTimer()
	for range n {
		running.Go(func() {
			for {
				i := int(next.Add(1))
				if i > b.N {
					return
				}
				work(i)
			}
		})
	}
	running.Wait()
	total := float64(b.N * writes)
	b.ReportMetric(total/b.Elapsed().Seconds(), "writes/s")
	b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/total, "cpu-us/write")
}

func BenchmarkCreate(b *testing.B) {
	for _, n := range []int{1, 16} {
		b.Run(fmt.Sprintf("writers=%d", n), func(b *testing.B) {
			c := unixHTTP(b, newServer(b))
			writers(b, n, 1, func(i int) {
				send(b, c, "POST", sandboxes, "application/json", sandboxJSON(fmt.Sprintf("s%d", i)))
			})
		})
	}
}

// BenchmarkLifecycle writes what a controller writes for each sandbox: create,
// finalizer, three states, and the removal of the finalizer.
func BenchmarkLifecycle(b *testing.B) {
	c := unixHTTP(b, newServer(b))
	const merge = "application/merge-patch+json"
	writers(b, 16, 6, func(i int) {
		path := fmt.Sprintf("%s/s%d", sandboxes, i)
		send(b, c, "POST", sandboxes, "application/json", sandboxJSON(fmt.Sprintf("s%d", i)))
		send(b, c, "PATCH", path, merge, `{"metadata":{"finalizers":["sandboxd.dev/machine"]}}`)
		for state, phase := range []string{"Creating", "Starting", "Running"} {
			send(b, c, "PATCH", path+"/status", merge, statusPatch(phase, state))
		}
		send(b, c, "PATCH", path, merge, `{"metadata":{"labels":{"done":"yes"}}}`)
	})
}

// statusPatch is a status like those that the sandbox controller writes.
func statusPatch(phase string, step int) string {
	var conditions []string
	for i, kind := range []string{"ImageReady", "Provisioned", "NetworkIsolated", "PoweredOn", "GuestReady", "Ready"} {
		status := "False"
		if i <= 2*step {
			status = "True"
		}
		conditions = append(conditions, fmt.Sprintf(
			`{"type":%q,"status":%q,"reason":"Reconciling","message":"waiting for step %d","observedGeneration":1,"lastTransitionTime":"2026-01-01T00:00:00Z"}`, kind, status, step))
	}
	return fmt.Sprintf(`{"status":{"phase":%q,"observedGeneration":1,"provider":"kvm","conditions":[%s]}}`, phase, strings.Join(conditions, ","))
}

func BenchmarkList10000(b *testing.B) {
	c := unixHTTP(b, newServer(b))
	fill(b, c, 10000)
	b.ResetTimer()
	for range b.N {
		raw := send(b, c, "GET", sandboxes, "application/json", "")
		b.SetBytes(int64(len(raw)))
	}
}

func BenchmarkTable10000(b *testing.B) {
	c := unixHTTP(b, newServer(b))
	fill(b, c, 10000)
	b.ResetTimer()
	for range b.N {
		r, _ := http.NewRequest("GET", "http://sandboxd"+sandboxes, nil)
		r.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
		response, err := c.Do(r)
		if err != nil {
			b.Fatal(err)
		}
		n, _ := io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		b.SetBytes(n)
	}
}

// fill makes n sandboxes.
func fill(b testing.TB, c *http.Client, n int) {
	b.Helper()
	var next atomic.Int64
	var running sync.WaitGroup
	for range 32 {
		running.Go(func() {
			for {
				i := int(next.Add(1))
				if i > n {
					return
				}
				send(b, c, "POST", sandboxes, "application/json", sandboxJSON(fmt.Sprintf("s%d", i)))
			}
		})
	}
	running.Wait()
}

// BenchmarkWatch measures the time from the request of a creation to the
// arrival of its event at a watcher.
func BenchmarkWatch(b *testing.B) {
	c := unixHTTP(b, newServer(b))
	r, _ := http.NewRequest("GET", "http://sandboxd"+sandboxes+"?watch=true", nil)
	response, err := c.Do(r)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	lines := bufio.NewReader(response.Body)
	latencies := make([]time.Duration, 0, b.N)
	b.ResetTimer()
	for i := range b.N {
		begun := time.Now()
		arrived := make(chan time.Duration, 1)
		go func() {
			_, _ = lines.ReadString('\n')
			arrived <- time.Since(begun)
		}()
		send(b, c, "POST", sandboxes, "application/json", sandboxJSON(fmt.Sprintf("w%d", i)))
		latencies = append(latencies, <-arrived)
	}
	slices.Sort(latencies)
	b.ReportMetric(float64(latencies[len(latencies)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(latencies[len(latencies)*99/100].Microseconds())/1000, "p99-ms")
}
