package access

import (
	"net/http"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"sandboxd.dev/sandboxd/guest/wire"
)

// Endpoint is one subresource of a Sandbox.
type Endpoint struct {
	Name    string
	Methods []string
	// Stream: it goes on until the client goes away or the guest is done, and
	// is told of any other end by the cause of its context's.
	Stream bool
	Serve  func(w http.ResponseWriter, r *http.Request, parent *unstructured.Unstructured)
}

// Endpoints lists the subresources to serve.
func (h *Handlers) Endpoints() []Endpoint {
	read, both := []string{http.MethodGet}, []string{http.MethodGet, http.MethodPut}
	connect := []string{http.MethodGet, http.MethodPost} // a WebSocket is opened by GET, SPDY by POST
	list := []Endpoint{
		{wire.Exec, connect, true, h.Exec},
		{wire.Attach, connect, true, h.Attach},
		{wire.PortForward, connect, true, h.PortForward},
		{wire.Files, both, false, h.Files},
		{wire.Archive, both, false, h.Archive},
		{wire.Log, read, true, h.Log},
	}
	if h.o.Disks != nil {
		list = append(list, Endpoint{wire.DiskDiff, read, true, h.DiskDiff}, Endpoint{wire.DiskArchive, read, true, h.DiskArchive})
	}
	return list
}

// PodEndpoints lists those of the pod that shows a Sandbox, which are the same.
func (h *Handlers) PodEndpoints() []Endpoint {
	return slices.DeleteFunc(h.Endpoints(), func(e Endpoint) bool {
		return !slices.Contains([]string{wire.Exec, wire.Attach, wire.PortForward, wire.Log}, e.Name)
	})
}
