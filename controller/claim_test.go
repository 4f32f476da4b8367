package controller_test

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
)

// before has something happen once, before the first request that adds a finalizer to
// an object of the name reaches the API.
type before struct {
	http.RoundTripper
	name string
	once *sync.Once
	do   func()
}

func (b before) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/"+b.name) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		if strings.Contains(string(body), "finalizers") {
			b.once.Do(b.do)
		}
		r = r.Clone(r.Context())
		r.Body = io.NopCloser(strings.NewReader(string(body)))
	}
	return b.RoundTripper.RoundTrip(r)
}

// TestNothingIsMadeForWhatIsGone: an object that is deleted before its finalizer was
// written, which no API server writes at its creation but ours, gets no machine: nobody
// would remove it but the garbage collector.
func TestNothingIsMadeForWhatIsGone(t *testing.T) {
	d := host(t, fake.Options{})
	d.sweep = patience // nothing that is made is collected meanwhile
	gone := newSandbox("gone")
	d.api = func(c *rest.Config) {
		c.Wrap(func(rt http.RoundTripper) http.RoundTripper {
			return before{rt, "gone", &sync.Once{}, func() {
				if err := d.client.Delete(t.Context(), newSandbox("gone")); err != nil {
					t.Error(err)
				}
			}}
		})
	}
	d.start()
	img := goldenImage("golden")
	d.create(img)
	until(d, img, "ready", ready[*v1.GoldenImage])
	d.create(gone)
	d.gone(gone)
	other := newSandbox("other")
	d.create(other)
	until(d, other, "ready", ready[*v1.Sandbox])
	for _, r := range d.leftovers() {
		if len(r.Owners) == 1 && r.Kind == providers.ResourceMachine && r.Owners[0] != types.UID(other.UID) {
			t.Errorf("%s was made for %v, which is gone", r.Description, r.Owners)
		}
	}
}
