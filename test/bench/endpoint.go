//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
)

const (
	collection = "/apis/sandboxd.dev/v1/namespaces/default/sandboxes"
	mergePatch = "application/merge-patch+json"
	applyPatch = "application/apply-patch+yaml"
	asTable    = "application/json;as=Table;g=meta.k8s.io;v=v1"
	asPartial  = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
)

// endpoint is an API server that is measured. It is spoken to by bare HTTP, so
// that the figures are the server's, and not those of a client's decoding.
type endpoint struct {
	prefix    string // of the names of its figures
	config    *rest.Config
	processes []process // that serve it
	client    *http.Client
	// rounds is how often what is short is measured; the median counts.
	rounds int
	// tellsNot: it cannot tell watchers when they have all objects there are.
	tellsNot bool
}

func newEndpoint(prefix string, config *rest.Config, processes ...process) (*endpoint, error) {
	e := &endpoint{prefix: prefix, config: config, processes: processes, rounds: rounds}
	var err error
	e.client, err = e.connection(manyWriters)
	return e, err
}

// connection is a client with connections of its own.
func (e *endpoint) connection(most int) (*http.Client, error) {
	tls, err := rest.TLSConfigFor(e.config)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		TLSClientConfig: tls, DialContext: e.config.Dial, DisableCompression: true,
		MaxConnsPerHost: most, MaxIdleConnsPerHost: most,
	}
	wrapped, err := rest.HTTPWrappersForConfig(e.config, transport)
	return &http.Client{Transport: wrapped}, err
}

func (e *endpoint) figure(name string, value float64, unit string) {
	figure(e.prefix+name, value, unit)
}

// request makes a request. Whoever calls it closes the body.
func (e *endpoint) request(ctx context.Context, c *http.Client, method, path, media string, body []byte) (*http.Response, error) {
	rq, err := http.NewRequestWithContext(ctx, method, e.config.Host+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if method == http.MethodGet {
		rq.Header.Set("Accept", media)
	} else {
		rq.Header.Set("Content-Type", media)
	}
	response, err := c.Do(rq)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= 300 {
		defer func() { _ = response.Body.Close() }()
		answer, _ := io.ReadAll(io.LimitReader(response.Body, 2000))
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, response.Status, answer)
	}
	return response, nil
}

// write makes a request that changes something, and returns the version that
// it made.
func (e *endpoint) write(ctx context.Context, method, path, media string, body []byte) (version string, err error) {
	response, err := e.request(ctx, e.client, method, path, media, body)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	return versionOf(answer), err
}

func (e *endpoint) create(ctx context.Context, name string) error {
	_, err := e.write(ctx, http.MethodPost, collection, "application/json", sandboxBody(name))
	return err
}

// sandboxBody is a Sandbox that nothing is ever made of: it is stopped, and
// there is no such image.
func sandboxBody(name string) []byte {
	body, err := json.Marshal(map[string]any{
		"apiVersion": "sandboxd.dev/v1", "kind": "Sandbox",
		"metadata": map[string]any{
			"name": name, "namespace": "default",
			"labels":      map[string]string{"app": "bench", "hundredth": name[max(0, len(name)-2):]},
			"annotations": map[string]string{"example.com/owner": "somebody", "example.com/purpose": "to be one of very many"},
		},
		"spec": map[string]any{
			"image": "none-" + name[max(0, len(name)-2):], "powerState": "Stopped", "cpus": 2, "memory": "512Mi",
			"network":   map[string]any{"mode": "nat", "portForwards": []any{map[string]any{"name": "web", "guestPort": 80}}},
			"lifecycle": map[string]any{"ttl": "24h"},
		},
	})
	if err != nil { // strings and numbers always marshal
		panic(err)
	}
	return body
}

// parallel runs work for the numbers below count, in so many goroutines, and
// tells how long that took.
func parallel(workers, count int, work func(i int) error) (time.Duration, error) {
	var next atomic.Int64
	var running sync.WaitGroup
	errs := make(chan error, workers)
	start := time.Now()
	for range workers {
		running.Go(func() {
			for i := int(next.Add(1)) - 1; i < count; i = int(next.Add(1)) - 1 {
				if err := work(i); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	running.Wait()
	close(errs)
	return time.Since(start), <-errs
}

var versionKey = []byte(`"resourceVersion":"`)

// versionOf is the first resource version in a text.
func versionOf(text []byte) string { return textBehind(text, versionKey) }

// textBehind is what follows the first occurrence of a key, up to the next
// quote.
func textBehind(text, key []byte) string {
	at := bytes.Index(text, key)
	if at < 0 {
		return ""
	}
	rest := text[at+len(key):]
	return string(rest[:max(0, bytes.IndexByte(rest, '"'))])
}

// cpu is what its processes have used of the processors, in seconds.
func (e *endpoint) cpu() (float64, error) {
	var sum float64
	for _, p := range e.processes {
		cpu, err := p.cpu()
		if err != nil {
			return 0, err
		}
		sum += cpu
	}
	return sum, nil
}

// memory prints a line of the processes' status, summed up.
func (e *endpoint) memory(line, name string) error {
	var sum float64
	for _, p := range e.processes {
		mb, err := p.memory(line)
		if err != nil {
			return err
		}
		sum += mb
	}
	e.figure(name, sum, "MB")
	return nil
}

func (e *endpoint) forgetPeak() error {
	for _, p := range e.processes {
		if err := p.forgetPeak(); err != nil {
			return err
		}
	}
	return nil
}

const (
	// pause is how long processes must have had nothing to do until the next
	// measurement of how long something takes,
	pause = 2 * time.Second
	// and settled until that of their memory: it is given back only then.
	settled = 7 * time.Second
)

// rest waits until the processes have had nothing more to do for so long, within
// bounds: the controllers look at all that was made.
func (e *endpoint) rest(ctx context.Context, quiet time.Duration) error {
	const interval, patience = time.Second, 2 * time.Minute
	before, err := e.cpu()
	if err != nil {
		return err
	}
	for still, began := time.Duration(0), time.Now(); still < quiet && time.Since(began) < patience; {
		if err := sleep(ctx, interval); err != nil {
			return err
		}
		now, err := e.cpu()
		if err != nil {
			return err
		}
		still += interval
		if now-before > 0.2*interval.Seconds() {
			still = 0
		}
		before = now
	}
	return nil
}
