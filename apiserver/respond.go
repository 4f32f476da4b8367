package apiserver

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"sandboxd.dev/sandboxd/store"
)

// beginAnswer gives the client time to take an answer from now on, however long
// it took to find: the admission of an image may read all of its source.
func beginAnswer(w http.ResponseWriter) {
	// Not every writer has deadlines (a test's recorder has none).
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
}

// writeBody sends a whole response.
func writeBody(w http.ResponseWriter, code int, media string, body []byte) {
	beginAnswer(w)
	h := w.Header()
	h.Set("Content-Type", media)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-cache, private")
	}
	w.WriteHeader(code)
	// The client is gone when this fails: nobody is left to tell.
	_, _ = w.Write(body)
}

// writeJSON sends a value as JSON, or as YAML when the client asks for it.
func writeJSON(w http.ResponseWriter, a accept, code int, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return writeRaw(w, a, code, raw)
}

func writeRaw(w http.ResponseWriter, a accept, code int, raw []byte) error {
	if a.yaml {
		asYAML, err := yaml.JSONToYAML(raw)
		if err != nil {
			return err
		}
		writeBody(w, code, mediaYAML, asYAML)
		return nil
	}
	writeBody(w, code, mediaJSON, append(raw, '\n'))
	return nil
}

// writeEntry answers with one object in the form that the client accepts.
func (s *Server) writeEntry(w http.ResponseWriter, rq *request, code int, value []byte, revision int64) error {
	raw, err := s.render(rq, value, revision, nil, true)
	if err != nil {
		return err
	}
	return writeRaw(w, rq.accept, code, raw)
}

// render renders one stored object in the form that the client accepts. u is
// the decoded object, if it is at hand.
func (s *Server) render(rq *request, value []byte, revision int64, u *unstructured.Unstructured, headers bool) ([]byte, error) {
	if rq.accept.form == formObject && rq.resource.view == nil {
		return served(value, revision)
	}
	if u == nil {
		var err error
		if u, err = rq.resource.decode(value, revision); err != nil {
			return nil, err
		}
	}
	switch rq.accept.form {
	case formTable:
		table, err := tableFor(rq.resource, []*unstructured.Unstructured{u}, rq.query.Get("includeObject"), headers, s.clock.Now())
		if err != nil {
			return nil, err
		}
		table.ResourceVersion = u.GetResourceVersion()
		return json.Marshal(table)
	case formPartial:
		return json.Marshal(partialMetadata(u))
	default:
		return json.Marshal(u.Object)
	}
}

// selected is an entry that a selector picked, with its decoded object if
// deciding needed one.
type selected struct {
	store.Entry
	object *unstructured.Unstructured
}

// writeList answers with a list in the form that the client accepts.
func (s *Server) writeList(w http.ResponseWriter, rq *request, entries []selected, revision int64) error {
	if rq.accept.form == formObject && rq.resource.view == nil {
		return s.writeObjectList(w, rq, entries, revision)
	}
	objects := make([]*unstructured.Unstructured, 0, len(entries))
	for _, e := range entries {
		u := e.object
		if u == nil {
			var err error
			if u, err = rq.resource.decode(e.Value, e.Revision); err != nil {
				return err
			}
		}
		objects = append(objects, u)
	}
	meta := metav1.ListMeta{ResourceVersion: formatRevision(revision)}
	switch rq.accept.form {
	case formTable:
		table, err := tableFor(rq.resource, objects, rq.query.Get("includeObject"), true, s.clock.Now())
		if err != nil {
			return err
		}
		table.ListMeta = meta
		return writeJSON(w, rq.accept, http.StatusOK, table)
	case formPartial:
		return writeJSON(w, rq.accept, http.StatusOK, listOf(metav1.SchemeGroupVersion.String(), "PartialObjectMetadataList", meta, objects, partialMetadata))
	default:
		return writeJSON(w, rq.accept, http.StatusOK, listOf(rq.resource.gvk.GroupVersion().String(), rq.resource.listKind, meta, objects,
			func(u *unstructured.Unstructured) map[string]any { return u.Object }))
	}
}

func listOf(apiVersion, kind string, meta metav1.ListMeta, objects []*unstructured.Unstructured, item func(*unstructured.Unstructured) map[string]any) any {
	items := make([]map[string]any, 0, len(objects))
	for _, u := range objects {
		items = append(items, item(u))
	}
	return map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": meta, "items": items}
}

// writeObjectList joins stored values into a list without decoding them. It
// copies them straight into the response: a long list takes no memory.
func (s *Server) writeObjectList(w http.ResponseWriter, rq *request, entries []selected, revision int64) error {
	apiVersion, _ := rq.resource.gvk.ToAPIVersionAndKind()
	head := `{"apiVersion":"` + apiVersion + `","kind":"` + rq.resource.listKind +
		`","metadata":{"resourceVersion":"` + formatRevision(revision) + `"},"items":[`
	const tail = "]}\n"
	size := len(head) + len(tail) + max(0, len(entries)-1)
	var scratch [64]byte
	for _, e := range entries {
		rest, err := servedRest(e.Value)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Key, err)
		}
		size += len(appendServedHead(scratch[:0], e.Revision)) + len(rest)
	}
	out := io.Writer(w)
	var whole bytes.Buffer // of a list that must be translated to YAML
	if rq.accept.yaml {
		out = &whole
	} else {
		beginAnswer(w)
		h := w.Header()
		h.Set("Content-Type", mediaJSON)
		h.Set("Content-Length", strconv.Itoa(size))
		h.Set("Cache-Control", "no-cache, private")
	}
	buffered := bufio.NewWriterSize(out, 32<<10)
	// The buffer keeps the first error, and Flush returns it.
	_, _ = buffered.WriteString(head)
	for i, e := range entries {
		if i > 0 {
			_ = buffered.WriteByte(',')
		}
		_, _ = buffered.Write(appendServedHead(scratch[:0], e.Revision))
		_, _ = buffered.Write(e.Value[len(storedPrefix):])
	}
	_, _ = buffered.WriteString(tail)
	if err := buffered.Flush(); err != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
	if rq.accept.yaml {
		return writeRaw(w, rq.accept, http.StatusOK, whole.Bytes())
	}
	return nil
}
