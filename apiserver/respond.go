package apiserver

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
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
