package access

import (
	"context"
	"io"
	"net/http"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/guest/wire"
)

// BuildLogs opens what the last build of an image has printed; with follow it goes
// on while that is under way.
type BuildLogs func(ctx context.Context, image types.UID, follow bool) (io.ReadCloser, error)

// BuildLog is the endpoint of a GoldenImage that serves the log of its build. What
// is printed there is the guest's own word, as on a console.
func (h *Handlers) BuildLog(open BuildLogs) Endpoint {
	return Endpoint{Name: wire.Log, Methods: []string{http.MethodGet}, Stream: true, Serve: func(w http.ResponseWriter, r *http.Request, parent *unstructured.Unstructured) {
		m := machine{object: "image " + parent.GetName(), id: parent.GetUID()}
		if err := h.buildLog(w, r, m, open); err != nil {
			writeStatus(w, statusOf(m.object, err))
		}
	}}
}

func (h *Handlers) buildLog(w http.ResponseWriter, r *http.Request, m machine, open BuildLogs) error {
	q := r.URL.Query()
	follow, err := parseBool(q, wire.ParamFollow)
	if err != nil {
		return err
	}
	lines, err := parseCount(q.Get(wire.ParamTailLines), wire.ParamTailLines, maxTailLines)
	if err != nil {
		return err
	}
	skip := int64(0)
	if lines >= 0 {
		if skip, err = beforeLines(r, m, open, lines); err != nil {
			return err
		}
	}
	log, err := open(r.Context(), m.id, follow)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	out := newStream(w, r, "text/plain; charset=utf-8")
	out.flushed = true
	if follow {
		out.begin()
		_ = http.NewResponseController(w).Flush()
	}
	if _, err = io.CopyN(io.Discard, log, skip); err == nil {
		_, err = io.Copy(out, log)
	}
	return h.finish(out, m, err)
}

// beforeLines is how many bytes come before the last lines.
func beforeLines(r *http.Request, m machine, open BuildLogs, lines int64) (int64, error) {
	log, err := open(r.Context(), m.id, false)
	if err != nil {
		return 0, err
	}
	defer func() { _ = log.Close() }()
	count := &counter{r: log}
	tail, err := tailSize(count, lines)
	return count.n - tail, err
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

// Read implements io.Reader.
func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
