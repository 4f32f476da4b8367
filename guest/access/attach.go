package access

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"sandboxd.dev/sandboxd/guest/wire"
	"sandboxd.dev/sandboxd/providers"
)

// Attach connects a client with the serial console: it sees what is printed from
// now on, and types where the provider can. The log of the console goes on
// beside it.
func (h *Handlers) Attach(w http.ResponseWriter, r *http.Request, parent *unstructured.Unstructured) {
	h.serve(w, parent, func(m machine) error {
		want, err := parseWanted(r.URL.Query())
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		var keys io.WriteCloser
		if want.stdin {
			if keys, err = m.provider.TypeAtConsole(ctx, m.id); err != nil {
				return err
			}
			defer func() { _ = keys.Close() }()
		}
		shown, err := m.provider.Console(ctx, m.id, providers.ConsoleOptions{Follow: true})
		if err != nil {
			return err
		}
		defer func() { _ = shown.Close() }()
		client, err := accept(w, r, want)
		if err != nil || client == nil {
			return err
		}
		// Whoever only looks at it ends that by going away.
		h.run(ctx, client, m, func(inner context.Context) metav1.Status {
			defer context.AfterFunc(inner, cancel)()
			return attach(inner, client, m, want, shown, keys)
		})
		return nil
	})
}

// attach passes on what is shown and typed until the machine or the client is
// gone.
func attach(ctx context.Context, client remote, m machine, want wanted, shown io.Reader, keys io.WriteCloser) metav1.Status {
	var typing sync.WaitGroup
	if keys != nil {
		typing.Go(func() {
			if _, err := io.Copy(keys, client.stdin()); err != nil {
				_ = client.stdin().Close()
			}
		})
	}
	out := io.Discard
	if want.stdout {
		out = client.output(ctx, wire.Stdout)
	}
	_, err := io.Copy(out, shown)
	_ = client.stdin().Close()
	typing.Wait()
	if err != nil && !errors.Is(err, io.EOF) {
		return statusOf(m.object, err)
	}
	return metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess, Code: http.StatusOK}
}
