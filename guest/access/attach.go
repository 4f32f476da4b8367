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
// now on, and types. The log of the console goes on beside it.
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
		seen, leave := context.WithCancel(ctx)
		defer leave()
		shown, err := m.provider.Console(seen, m.id, providers.ConsoleOptions{Follow: true})
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
			return attach(inner, client, m, want, shown, keys, leave)
		})
		return nil
	})
}

// attach passes on what is shown and typed until the machine or the client is
// gone, or what is typed is not taken any more: then leave ends what is shown. When
// that has ended, nothing is typed any more, whether the guest reads or not.
func attach(ctx context.Context, client remote, m machine, want wanted, shown io.Reader, keys io.WriteCloser, leave func()) metav1.Status {
	var typing sync.WaitGroup
	var refused error
	ended := func() {}
	if keys != nil {
		ended = func() { _ = keys.Close() }
		typing.Go(func() {
			taken := func(b []byte) (n int, err error) {
				n, refused = keys.Write(b)
				return n, refused
			}
			if _, err := io.Copy(writerFunc(taken), client.stdin()); err != nil {
				_ = client.stdin().Close()
			}
			if refused != nil {
				leave()
			}
		})
	}
	out := io.Discard
	if want.stdout {
		out = client.output(ctx, wire.Stdout)
	}
	_, err := io.Copy(out, shown)
	_ = client.stdin().Close()
	ended()
	typing.Wait()
	if refused != nil && errors.Is(err, context.Canceled) && ctx.Err() == nil { // leave was called
		err = refused
		if providers.KindOf(err) == nil {
			err = providers.Errorf(providers.ErrUnavailable, m.object, "its serial console does not take what is typed any more: attach again (%w)", err)
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return statusOf(m.object, err)
	}
	return metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess, Code: http.StatusOK}
}
