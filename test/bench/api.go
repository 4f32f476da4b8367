//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/client"
)

const (
	objects = 10000
	// rounds is how often what is short is measured; the median counts.
	rounds = 5
)

func objectName(i int) string { return fmt.Sprintf("bench-%05d", i) }

// api measures the wire API of the whole daemon with very many objects, of which
// the controllers make nothing.
func (b *bench) api(ctx context.Context) error {
	err := b.apiOf(ctx, "api_", func(ctx context.Context, name string) (*daemon, error) {
		return b.startDaemon(ctx, name, "--simulate")
	})
	if err != nil {
		return err
	}
	return b.overTLS(ctx, "api_empty")
}

// overTLS measures a daemon with all objects over TLS, as an administrator with a
// client certificate.
func (b *bench) overTLS(ctx context.Context, dir string) error {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		return err
	}
	d, err := b.startDaemon(ctx, dir, "--simulate", "--listen", address)
	if err != nil {
		return err
	}
	kubeconfig := filepath.Join(b.dir, "kubeconfig")
	if _, err := d.run(ctx, "kubeconfig", "--user", "bench", "--role", "admin", "-o", kubeconfig); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	e, err := newEndpoint("api_tls_", config, d.process())
	if err != nil {
		return err
	}
	pause := func(ctx context.Context) error { return e.rest(ctx, pause) }
	for _, step := range []func(context.Context) error{
		pause, e.lists,
		func(ctx context.Context) error { return e.latency(ctx, 1) },
		func(ctx context.Context) error { return e.latency(ctx, 100) },
		e.patches, pause, e.fanOut,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return d.stop()
}

// apiAlone measures the API server on its store, without controllers.
func (b *bench) apiAlone(ctx context.Context) error { return b.apiOf(ctx, "api_alone_", b.startAlone) }

// apiOf measures a server of ours from its start to its end.
func (b *bench) apiOf(ctx context.Context, prefix string, start func(context.Context, string) (*daemon, error)) error {
	d, err := b.starts(ctx, prefix+"ready", prefix+"empty", start)
	if err != nil {
		return err
	}
	e, err := newEndpoint(prefix, client.SocketConfig(d.socket), d.process())
	if err != nil {
		return err
	}
	if err := e.atRest(ctx, "idle"); err != nil {
		return err
	}
	if err := b.load(ctx, e); err != nil {
		return err
	}
	if err := errors.Join(d.stop(), ctx.Err()); err != nil {
		return err
	}
	// The same store, by a daemon that finds all of it.
	if d, err = b.starts(ctx, prefix+"ready_10000", prefix+"empty", start); err != nil {
		return err
	}
	e.processes = []process{d.process()}
	if err := e.atRest(ctx, "10000_restarted"); err != nil {
		return err
	}
	// Since it was started: with all that it does to get where it rests.
	if err := e.memory("VmHWM", "rss_peak_10000_restarting"); err != nil {
		return err
	}
	return d.stop()
}

// starts starts a server a few times, says how long it takes until it answers,
// and leaves the last one running.
func (b *bench) starts(ctx context.Context, name, dir string, start func(context.Context, string) (*daemon, error)) (*daemon, error) {
	var took []float64
	for {
		var d *daemon
		seconds, err := timed(func() (err error) { d, err = start(ctx, dir); return err })
		if err != nil {
			return nil, err
		}
		if took = append(took, seconds); len(took) == rounds {
			figure(name, 1000*median(took), "ms")
			return d, nil
		}
		if err := d.stop(); err != nil {
			return nil, err
		}
	}
}

// load fills an API server and measures it.
func (b *bench) load(ctx context.Context, e *endpoint) error {
	pause := func(ctx context.Context) error { return e.rest(ctx, pause) }
	steps := []func(context.Context) error{
		func(ctx context.Context) error { return b.fill(ctx, e) },
		func(ctx context.Context) error { return e.atRest(ctx, "10000_created") },
		e.lists,
		func(ctx context.Context) error { return b.listFloor(ctx, e) },
		pause,
		func(ctx context.Context) error { return e.latency(ctx, 1) },
		func(ctx context.Context) error { return e.latency(ctx, 100) },
		e.patches,
		pause,
		e.fanOut,
		pause,
		e.initialLists,
		func(ctx context.Context) error { return e.atRest(ctx, "10000_after_all") },
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// atRest tells the memory of the processes once they have settled: all that is
// resident, and what of it is their own. The rest is the program and the store's
// file, which the kernel drops when it wants to.
func (e *endpoint) atRest(ctx context.Context, when string) error {
	return errors.Join(e.rest(ctx, settled), e.memory("VmRSS", "rss_at_rest_"+when), e.memory("RssAnon", "rss_at_rest_"+when+"_anonymous"))
}

// fill makes the objects, the first of them by one writer.
func (b *bench) fill(ctx context.Context, e *endpoint) error {
	floor := map[int]float64{}
	for _, writers := range []int{1, manyWriters} {
		var err error
		if floor[writers], err = b.boltCreates(writers); err != nil {
			return err
		}
	}
	const alone = 500
	before, err := e.cpu()
	if err != nil {
		return err
	}
	for _, part := range []struct{ writers, from, to int }{{1, 0, alone}, {manyWriters, alone, objects}} {
		took, err := parallel(part.writers, part.to-part.from, func(i int) error { return e.create(ctx, objectName(part.from+i)) })
		if err != nil {
			return err
		}
		name, rate := fmt.Sprintf("create_%d_writers", part.writers), float64(part.to-part.from)/took.Seconds()
		e.figure(name, rate, "creates/s")
		e.figure(name+"_ratio", rate/floor[part.writers], "of_bbolt")
	}
	after, err := e.cpu()
	if err != nil {
		return err
	}
	e.figure("create_cpu", 1e6*(after-before)/objects, "us_of_cpu/create")
	return e.memory("VmHWM", "rss_peak_10000_creating")
}

// lists reads all objects, and some, in each form.
func (e *endpoint) lists(ctx context.Context) error {
	for _, list := range []struct{ name, media, query string }{
		{"list_10000", "application/json", ""},
		{"table_10000", asTable, ""},
		{"partial_10000", asPartial, ""},
		{"list_100_by_label", "application/json", "?labelSelector=" + url.QueryEscape("hundredth=07")},
		{"list_100_by_field", "application/json", "?fieldSelector=" + url.QueryEscape("spec.image=none-07")},
	} {
		if err := e.forgetPeak(); err != nil {
			return err
		}
		var first, whole []float64
		var size int64
		for range e.rounds {
			start := time.Now()
			response, err := e.request(ctx, e.client, http.MethodGet, collection+list.query, list.media, nil)
			if err != nil {
				return err
			}
			first = append(first, time.Since(start).Seconds())
			size, err = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
			if err != nil {
				return err
			}
			whole = append(whole, time.Since(start).Seconds())
		}
		e.figure(list.name+"_first_byte", 1000*median(first), "ms")
		e.figure(list.name, 1000*median(whole), "ms")
		e.figure(list.name+"_size", float64(size)/1e6, "MB")
		if err := e.memory("VmHWM", "rss_peak_"+list.name); err != nil {
			return err
		}
	}
	return nil
}

// listFloor tells how much longer a list of all takes than net/http needs to
// send the same bytes out of memory, over a unix socket.
func (b *bench) listFloor(ctx context.Context, e *endpoint) error {
	response, err := e.request(ctx, e.client, http.MethodGet, collection, "application/json", nil)
	if err != nil {
		return err
	}
	all, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if err != nil {
		return err
	}
	path := filepath.Join(b.dir, "floor.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(all)))
		_, _ = w.Write(all)
	})}
	go func() { _ = server.Serve(l) }()
	defer func() { _ = server.Close() }()
	floor, err := newEndpoint("", client.SocketConfig(path))
	if err != nil {
		return err
	}
	read := func(e *endpoint) (float64, error) {
		return timed(func() error {
			response, err := e.request(ctx, e.client, http.MethodGet, collection, "application/json", nil)
			if err != nil {
				return err
			}
			defer func() { _ = response.Body.Close() }()
			_, err = io.Copy(io.Discard, response.Body)
			return err
		})
	}
	var ratios []float64
	for range rounds { // in turns: what else runs hits both
		theirs, err := read(floor)
		if err != nil {
			return err
		}
		ours, err := read(e)
		if err != nil {
			return err
		}
		ratios = append(ratios, ours/theirs)
	}
	e.figure("list_10000_ratio", median(ratios), "of_net/http_from_memory")
	return nil
}

// patches changes objects in the ways that clients and controllers do.
func (e *endpoint) patches(ctx context.Context) error {
	const count = 1000
	for _, writers := range []int{1, manyWriters} {
		took, err := parallel(writers, count, func(i int) error {
			_, err := e.write(ctx, http.MethodPatch, collection+"/"+objectName(i), mergePatch,
				fmt.Appendf(nil, `{"metadata":{"labels":{"patched":"by-%d"}}}`, writers))
			return err
		})
		if err != nil {
			return err
		}
		e.figure(fmt.Sprintf("merge_patch_%d_writers", writers), count/took.Seconds(), "patches/s")
		took, err = parallel(writers, count, func(i int) error {
			name := objectName(i)
			_, err := e.write(ctx, http.MethodPatch, collection+"/"+name+"?fieldManager=bench&force=true", applyPatch,
				fmt.Appendf(nil, `{"apiVersion":"sandboxd.dev/v1","kind":"Sandbox","metadata":{"name":%q,"labels":{"applied":"by-%d"}},"spec":{"image":"none-%s"}}`, name, writers, name[len(name)-2:]))
			return err
		})
		if err != nil {
			return err
		}
		e.figure(fmt.Sprintf("apply_%d_writers", writers), count/took.Seconds(), "applies/s")
	}
	return nil
}

// kubeAPI measures a kube-apiserver that has our definitions.
func (b *bench) kubeAPI(ctx context.Context) error {
	if b.kubeconfig == "" {
		return nil
	}
	if _, err := os.Stat(b.kubeconfig); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", b.kubeconfig)
	if err != nil {
		return err
	}
	e, err := newEndpoint("kube-apiserver-", rest.CopyConfig(config), b.processes...)
	if err != nil {
		return err
	}
	e.rounds = 3      // nothing of it is short
	e.tellsNot = true // Debian's etcd does not tell it how far it is
	if err := e.atRest(ctx, "idle"); err != nil {
		return err
	}
	if err := e.define(ctx); err != nil {
		return err
	}
	return b.load(ctx, e)
}

// define makes our definitions known to a kube-apiserver, and waits until it
// serves them.
func (e *endpoint) define(ctx context.Context) error {
	err := fs.WalkDir(v1.CRDs, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		definition, err := v1.CRDs.ReadFile(path)
		if err != nil {
			return err
		}
		_, err = e.write(ctx, http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "application/yaml", definition)
		return err
	})
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); ; {
		response, err := e.request(ctx, e.client, http.MethodGet, collection, "application/json", nil)
		if err == nil {
			return response.Body.Close()
		}
		if time.Now().After(deadline) {
			return err
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}
