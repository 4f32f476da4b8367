package apiserver_test

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
)

// When the server stops, a stream is told at once. Another request may finish,
// here one that waits for the stream's end.
func TestStreamsEndWhenTheServerStops(t *testing.T) {
	type end struct{ stream, other error }
	begun, ended, told := make(chan string, 2), make(chan end, 1), make(chan error, 1)
	s := newServer(t, func(o *apiserver.Options) {
		sub := func(name string, stream bool, serve func(ctx context.Context)) apiserver.Subresource {
			return apiserver.Subresource{
				Resource: v1.Resource("sandboxes"), Name: name, Methods: []string{"GET"}, Stream: stream,
				Handler: func(_ http.ResponseWriter, r *http.Request, _ *unstructured.Unstructured) {
					begun <- name
					serve(r.Context())
				},
			}
		}
		o.Subresources = []apiserver.Subresource{
			sub("log", true, func(ctx context.Context) {
				<-ctx.Done()
				told <- context.Cause(ctx)
			}),
			sub("files", false, func(ctx context.Context) {
				select {
				case cause := <-told:
					ended <- end{cause, ctx.Err()}
				case <-ctx.Done():
					ended <- end{nil, context.Cause(ctx)}
				}
			}),
		}
	})
	api{t: t, handler: s.Handler()}.do("POST", sandboxes, sandbox("one")).want(201)
	path := filepath.Join(t.TempDir(), "api.sock")
	stop := serveUnix(t, s, path)
	transport := &http.Transport{DialContext: unixConfig(path).Dial}
	defer transport.CloseIdleConnections()
	for _, name := range []string{"log", "files"} {
		go func() {
			if response, err := (&http.Client{Transport: transport}).Get("http://sandboxd" + sandboxes + "/one/" + name); err == nil {
				_ = response.Body.Close()
			}
		}()
		<-begun
	}
	stop()
	if e := <-ended; !errors.Is(e.stream, apiserver.ErrStopping) || e.other != nil {
		t.Errorf("the stream ended with %v, the other request with %v", e.stream, e.other)
	}
}
