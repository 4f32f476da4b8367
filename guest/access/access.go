// Package access serves the inside of guests over HTTP: commands, files,
// directories and the console of a Sandbox. Package wire lists the endpoints.
//
//	request ─▶ Sandbox ─▶ provider and machine ─┬─ exec     WebSocket or SPDY ◀─▶ Guest.Exec
//	            (status)                        ├─ files    body ◀─▶ ReadFile, WriteFile
//	                                            ├─ archive  tar in the guest, between a file and exec
//	                                            ├─ log      Console
//	                                            ├─ attach   Console, TypeAtConsole
//	                                            ├─ portforward  a route of the host's, or Guest.Exec
//	                                            └─ diskdiff, diskarchive  OpenDisk ─▶ disk/worker
//
// A Guest is reached by the provider, which asks the guest's agent, or by ssh where
// there is none.
//
// The handlers do not authenticate and do not look objects up: the API server
// has done both and hands over the Sandbox. Whatever ends a request, such as a
// client that goes away, ends what it started in the guest.
package access

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// Options of Handlers.
type Options struct {
	Providers *providers.Set
	// User tells which user the commands of a sandbox run as when the request
	// names none; empty means the agent's own.
	User func(ctx context.Context, sbx *v1.Sandbox) (string, error)
	// SSH opens the way into a guest that has no agent; nil, also as its result,
	// leaves it to the provider. What it opens is closed by done.
	SSH func(ctx context.Context, p providers.Provider, sbx *v1.Sandbox) (g Guest, done func(), err error)
	// Used is told of each use of a sandbox, and calls end when it is over; nil is
	// told nothing.
	Used func(id types.UID) (end func())
	// Dial connects to addresses that providers name as ways to guests; nil where
	// they lead nowhere, and ports are reached from inside only.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Disks reads disks; nil serves none.
	Disks *Disks
	// Logger gets what no client can be told.
	Logger logr.Logger
}

// Handlers serve the subresources of a Sandbox. They may be used concurrently.
type Handlers struct {
	o Options
}

// New makes Handlers.
func New(o Options) *Handlers {
	return &Handlers{o}
}

// Guest is the inside of one machine. Its methods are as those of
// providers.Guests.
type Guest interface {
	Exec(ctx context.Context, req providers.ExecRequest) (providers.ExecResult, error)
	WriteFile(ctx context.Context, path string, mode uint32, r io.Reader) error
	ReadFile(ctx context.Context, path string, w io.Writer) (providers.FileInfo, error)
}

// agent is a Guest that its provider reaches.
type agent struct {
	guests providers.Guests
	id     types.UID
}

func (a agent) Exec(ctx context.Context, req providers.ExecRequest) (providers.ExecResult, error) {
	return a.guests.Exec(ctx, a.id, req)
}

func (a agent) WriteFile(ctx context.Context, path string, mode uint32, r io.Reader) error {
	return a.guests.WriteFile(ctx, a.id, path, mode, r)
}

func (a agent) ReadFile(ctx context.Context, path string, w io.Writer) (providers.FileInfo, error) {
	return a.guests.ReadFile(ctx, a.id, path, w)
}

// machine is the machine of a sandbox, and what reaches into it.
type machine struct {
	Guest    // set by enter
	provider providers.Provider
	id       types.UID
	// object names the sandbox in messages.
	object string
	sbx    *v1.Sandbox
}

// find finds the machine of a sandbox.
func (h *Handlers) find(parent *unstructured.Unstructured) (machine, error) {
	sbx := &v1.Sandbox{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(parent.Object, sbx); err != nil {
		return machine{}, fmt.Errorf("sandbox %s/%s cannot be read: %w", parent.GetNamespace(), parent.GetName(), err)
	}
	m := machine{id: sbx.UID, object: fmt.Sprintf("sandbox %s/%s", sbx.Namespace, sbx.Name), sbx: sbx}
	if sbx.Status.MachineID == "" {
		why := "its creation has not begun"
		if c := meta.FindStatusCondition(sbx.Status.Conditions, v1.ConditionReady); c != nil && c.Message != "" {
			why = c.Message
		}
		return m, providers.Errorf(providers.ErrUnavailable, m.object, "it has no machine yet: %s", why)
	}
	p, err := h.o.Providers.Get(sbx.Status.Provider)
	if err != nil {
		return m, err
	}
	m.provider = p
	return m, nil
}

// serve runs a handler on the machine of a sandbox and answers with its error.
func (h *Handlers) serve(w http.ResponseWriter, parent *unstructured.Unstructured, handle func(machine) error) {
	m, err := h.find(parent)
	if err == nil {
		if h.o.Used != nil {
			defer h.o.Used(m.id)()
		}
		err = handle(m)
	}
	if err != nil {
		writeStatus(w, statusOf(m.object, err))
	}
}

// enter runs a handler that reaches into the guest.
func (h *Handlers) enter(w http.ResponseWriter, r *http.Request, parent *unstructured.Unstructured, handle func(machine) error) {
	h.serve(w, parent, func(m machine) error {
		m.Guest = agent{m.provider, m.id}
		if h.o.SSH != nil {
			g, done, err := h.o.SSH(r.Context(), m.provider, m.sbx)
			if err != nil {
				return err
			}
			if g != nil {
				defer done()
				m.Guest = g
			}
		}
		return handle(m)
	})
}

// userOf is the user that a request's command runs as.
func (h *Handlers) userOf(ctx context.Context, m machine, asked string) (string, error) {
	if asked != "" || h.o.User == nil {
		return asked, nil
	}
	return h.o.User(ctx, m.sbx)
}
