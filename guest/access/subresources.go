package access

import (
	"net/http"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"sandboxd.dev/sandboxd/guest/wire"
)

// Endpoint is one subresource of a Sandbox.
type Endpoint struct {
	Name    string
	Methods []string
	Serve   func(w http.ResponseWriter, r *http.Request, parent *unstructured.Unstructured)
}

// Endpoints lists the subresources to serve.
func (h *Handlers) Endpoints() []Endpoint {
	read, both := []string{http.MethodGet}, []string{http.MethodGet, http.MethodPut}
	return []Endpoint{
		{wire.Exec, read, h.Exec},
		{wire.Files, both, h.Files},
		{wire.Archive, both, h.Archive},
		{wire.Log, read, h.Log},
	}
}
