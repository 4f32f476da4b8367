//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// watcher reads the events of one watch, on a connection of its own.
type watcher struct {
	body  io.ReadCloser
	lines *bufio.Reader
	close func()
}

func (e *endpoint) watch(ctx context.Context, query string) (*watcher, error) {
	c, err := e.connection(1)
	if err != nil {
		return nil, err
	}
	response, err := e.request(ctx, c, http.MethodGet, collection+"?watch=true&"+query, "application/json", nil)
	if err != nil {
		return nil, err
	}
	return &watcher{body: response.Body, lines: bufio.NewReaderSize(response.Body, 64<<10), close: c.CloseIdleConnections}, nil
}

// next is the next event, valid until the one after it.
func (w *watcher) next() ([]byte, error) {
	line, err := w.lines.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, errors.New("an event is larger than those of the benchmark are")
	}
	return line, err
}

func (w *watcher) stop() {
	_ = w.body.Close()
	w.close()
}

// watchers opens many watches from the newest version on, which it returns.
func (e *endpoint) watchers(ctx context.Context, count int) (all []*watcher, newest string, err error) {
	response, err := e.request(ctx, e.client, http.MethodGet, collection+"?limit=1&fieldSelector=metadata.name=none", "application/json", nil)
	if err != nil {
		return nil, "", err
	}
	list, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if err != nil {
		return nil, "", err
	}
	all, newest = make([]*watcher, 0, count), versionOf(list)
	for range count {
		w, err := e.watch(ctx, "resourceVersion="+newest)
		if err != nil {
			return nil, "", err
		}
		all = append(all, w)
	}
	return all, newest, nil
}

// eachWatcher runs work on all watchers at once and stops them.
func eachWatcher(all []*watcher, work func(i int, w *watcher) error) (wait func() error) {
	var running sync.WaitGroup
	errs := make(chan error, len(all))
	for i, w := range all {
		running.Go(func() {
			defer w.stop()
			if err := work(i, w); err != nil {
				errs <- fmt.Errorf("watcher %d: %w", i, err)
			}
		})
	}
	return func() error {
		running.Wait()
		close(errs)
		return <-errs
	}
}

// latency measures from the request of a creation to its event, at each of so
// many watchers.
func (e *endpoint) latency(ctx context.Context, count int) error {
	const creations = 200
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	all, _, err := e.watchers(ctx, count)
	if err != nil {
		return err
	}
	prefix := fmt.Sprintf("latency-%s%d-", strings.ReplaceAll(e.prefix, "_", "-"), count)
	key := []byte(`"name":"` + prefix)
	arrived := make([][]time.Time, count)
	wait := eachWatcher(all, func(n int, w *watcher) error {
		arrived[n] = make([]time.Time, creations)
		for seen := 0; seen < creations; {
			line, err := w.next()
			if err != nil {
				return err
			}
			now := time.Now()
			i, err := strconv.Atoi(textBehind(line, key))
			if err != nil || !bytes.Contains(line[:min(len(line), 40)], []byte("ADDED")) {
				continue // what a controller has written
			}
			arrived[n][i] = now
			seen++
		}
		return nil
	})
	sent := make([]time.Time, creations)
	for i := range creations {
		sent[i] = time.Now()
		if err := e.create(ctx, prefix+fmt.Sprintf("%03d", i)); err != nil {
			return err
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil { // one by one
			return err
		}
	}
	if err := wait(); err != nil {
		return err
	}
	latencies := make([]time.Duration, 0, count*creations)
	for _, times := range arrived {
		for i, at := range times {
			latencies = append(latencies, at.Sub(sent[i]))
		}
	}
	name := fmt.Sprintf("create_to_watch_%d_watchers", count)
	e.figure(name+"_p50", quantile(latencies, 0.5), "ms")
	e.figure(name+"_p99", quantile(latencies, 0.99), "ms")
	return nil
}

// fanOut makes many changes under many watchers, each of which must see every
// change once and in order.
func (e *endpoint) fanOut(ctx context.Context) error {
	const watchers, changes = 100, 1000
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	all, text, err := e.watchers(ctx, watchers)
	if err != nil {
		return err
	}
	newest, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("version of a list: %w", err)
	}
	if err := e.forgetPeak(); err != nil {
		return err
	}
	before, err := e.cpu()
	if err != nil {
		return err
	}
	const mark = `"bench/change":"`
	seen := make([]map[string]string, watchers) // version to change
	wait := eachWatcher(all, func(n int, w *watcher) error {
		seen[n] = make(map[string]string, changes)
		changed, last := make(map[string]bool, changes), 0
		for len(changed) < changes {
			line, err := w.next()
			if err != nil {
				return fmt.Errorf("after %d of %d changes: %w", len(changed), changes, err)
			}
			version, err := strconv.Atoi(versionOf(line))
			if err != nil || version <= last {
				return fmt.Errorf("version %d came behind version %d", version, last)
			}
			last = version
			if change := textBehind(line, []byte(mark)); change != "" {
				changed[change] = true
				seen[n][strconv.Itoa(version)] = change
			}
		}
		return nil
	})
	var mu sync.Mutex
	made := make(map[string]string, changes)
	start := time.Now()
	if _, err := parallel(manyWriters, changes, func(i int) error {
		change := fmt.Sprint(e.prefix, i) // which no earlier measurement on this store made
		version, err := e.write(ctx, http.MethodPatch, collection+"/"+objectName(i), mergePatch, []byte(`{"metadata":{"annotations":{`+mark+change+`"}}}`))
		mu.Lock()
		made[version] = change
		mu.Unlock()
		if at, bad := strconv.Atoi(version); err == nil && (bad != nil || at <= newest) {
			return fmt.Errorf("change %q made no version behind %d but %q: nobody will see it", change, newest, version)
		}
		return err
	}); err != nil {
		return err
	}
	if err := wait(); err != nil {
		return err
	}
	took := time.Since(start).Seconds()
	after, err := e.cpu()
	if err != nil {
		return err
	}
	for n := range seen {
		for version, change := range made {
			if seen[n][version] != change {
				return fmt.Errorf("watcher %d saw change %q at version %s, where change %q was made", n, seen[n][version], version, change)
			}
		}
	}
	e.figure("fan_out_100x1000", watchers*changes/took, "events/s")
	e.figure("fan_out_100x1000_cpu", after-before, "s_of_cpu")
	return e.memory("VmHWM", "rss_peak_fan_out_100x1000")
}

// initialLists lets many clients begin at once with all objects there are, as
// informers do: those of today, and those of yesterday, who are not told when they
// have all.
func (e *endpoint) initialLists(ctx context.Context) error {
	const clients = 20
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for _, form := range []struct {
		name, query string
		told        bool
	}{
		{"watch_list_10000x20", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", true},
		{"watch_from_0_10000x20", "resourceVersion=0", false},
	} {
		if form.told && e.tellsNot {
			continue
		}
		if err := e.forgetPeak(); err != nil {
			return err
		}
		took, err := parallel(clients, clients, func(int) error { return e.initialList(ctx, form.query, form.told) })
		if err != nil {
			return err
		}
		e.figure(form.name, took.Seconds(), "s")
		if err := e.memory("VmHWM", "rss_peak_"+form.name); err != nil {
			return err
		}
	}
	return nil
}

// initialList reads a watch that begins with all objects, until they are there.
func (e *endpoint) initialList(ctx context.Context, query string, told bool) error {
	w, err := e.watch(ctx, query)
	if err != nil {
		return err
	}
	defer w.stop()
	for count := 0; told || count < objects; count++ {
		line, err := w.next()
		if err != nil {
			return fmt.Errorf("after %d objects of an initial list: %w", count, err)
		}
		if bytes.HasPrefix(line, []byte(`{"type":"ERROR"`)) {
			return fmt.Errorf("an initial list ended after %d objects: %s", count, line)
		}
		if bytes.Contains(line, []byte("k8s.io/initial-events-end")) {
			if count < objects {
				return fmt.Errorf("an initial list has %d objects", count)
			}
			return nil
		}
	}
	return nil
}
