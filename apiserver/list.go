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

	"sandboxd.dev/sandboxd/store"
)

// listForm is how a list is written: what it begins and ends with, and how an item
// is appended to it.
type listForm struct {
	head, tail string
	item       func(b []byte, e store.Entry) ([]byte, error)
	// size of an item, where it is known before it is made; nil otherwise.
	size func(e store.Entry) (int, error)
}

// listBuffer is how much of a list is collected before it is sent.
const listBuffer = 32 << 10

// writeList answers with a list in the form that the client accepts. Each item is
// made when it is its turn and sent: a long list takes no memory.
func (s *Server) writeList(w http.ResponseWriter, rq *request, p page) error {
	entries := p.entries
	l, err := s.newList(rq, p.meta())
	if err != nil {
		return err
	}
	if rq.accept.yaml {
		var whole bytes.Buffer // to be translated
		if err := l.write(&whole, entries); err != nil {
			return err
		}
		return writeRaw(w, rq.accept, http.StatusOK, whole.Bytes())
	}
	h := w.Header()
	if l.size != nil {
		size := len(l.head) + len(l.tail) + max(0, len(entries)-1)
		for _, e := range entries {
			n, err := l.size(e)
			if err != nil {
				return fmt.Errorf("%s: %w", e.Key, err)
			}
			size += n
		}
		h.Set("Content-Length", strconv.Itoa(size))
	} else if answer, ok := w.(*response); ok {
		for _, e := range entries {
			answer.estimate += len(e.Value)
		}
	}
	beginAnswer(w)
	h.Set("Content-Type", mediaJSON)
	h.Set("Cache-Control", "no-cache, private")
	return l.write(w, entries)
}

// write sends a list. The connection is ended when the client does not take it.
func (l listForm) write(w io.Writer, entries []store.Entry) error {
	out := bufio.NewWriterSize(w, listBuffer)
	// The buffer keeps the first error of writing, and Flush returns it.
	_, _ = out.WriteString(l.head)
	var scratch []byte
	for i, e := range entries {
		if i > 0 {
			_ = out.WriteByte(',')
		}
		var err error
		if scratch, err = l.item(scratch[:0], e); err != nil {
			return fmt.Errorf("%s: %w", e.Key, err)
		}
		if _, err := out.Write(scratch); err != nil {
			break
		}
	}
	_, _ = out.WriteString(l.tail)
	if err := out.Flush(); err != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
	return nil
}

// newList finds how a request's list is written.
func (s *Server) newList(rq *request, meta metav1.ListMeta) (listForm, error) {
	const tail = "]}\n"
	rawMeta, err := json.Marshal(meta)
	if err != nil {
		return listForm{}, err
	}
	head := func(apiVersion, kind string) string {
		return `{"apiVersion":"` + apiVersion + `","kind":"` + kind + `","metadata":` + string(rawMeta) + `,"items":[`
	}
	r := rq.resource
	apiVersion := r.gvk.GroupVersion().String()
	switch {
	case rq.accept.form == formTable:
		columns, err := tableHead(r, meta)
		return listForm{head: columns, tail: tail, item: rowItem(r, rq.query.Get("includeObject"), s.clock.Now())}, err
	case rq.accept.form == formPartial:
		return listForm{head: head(metav1.SchemeGroupVersion.String(), "PartialObjectMetadataList"), tail: tail, item: appendPartial}, nil
	case r.view != nil:
		return listForm{head: head(apiVersion, r.listKind), tail: tail, item: func(b []byte, e store.Entry) ([]byte, error) {
			u, err := r.decode(e.Value, e.Revision)
			if err != nil {
				return nil, err
			}
			return appendValue(b, u.Object)
		}}, nil
	}
	return listForm{head: head(apiVersion, r.listKind), tail: tail, item: appendStored, size: servedSize}, nil
}

// appendStored appends the served form of a stored value, which is not decoded
// for it.
func appendStored(b []byte, e store.Entry) ([]byte, error) {
	rest, err := servedRest(e.Value)
	if err != nil {
		return nil, err
	}
	return append(appendServedHead(b, e.Revision), rest...), nil
}

func servedSize(e store.Entry) (int, error) {
	rest, err := servedRest(e.Value)
	if err != nil {
		return 0, err
	}
	var scratch [64]byte
	return len(appendServedHead(scratch[:0], e.Revision)) + len(rest), nil
}

// appendPartial appends an object reduced to its metadata, which a stored value
// begins with: nothing is decoded.
func appendPartial(b []byte, e store.Entry) ([]byte, error) {
	rest, err := servedRest(e.Value)
	if err != nil {
		return nil, err
	}
	end, err := objectEnd(rest)
	if err != nil {
		return nil, err
	}
	b = append(appendServedHead(b, e.Revision), rest[:end]...)
	return append(b, `,"apiVersion":"`+metav1.SchemeGroupVersion.String()+`","kind":"PartialObjectMetadata"}`...), nil
}

// objectEnd is where the JSON object ends whose inside a text begins with.
func objectEnd(text []byte) (int, error) {
	if end := valueEnd(text, 1); end > 0 {
		return end, nil
	}
	return 0, fmt.Errorf("stored object does not end its metadata")
}

// valueEnd is where as many objects and lists have ended as a text is inside of; 0
// if they do not.
func valueEnd(text []byte, depth int) int {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			i += stringEnd(text[i:]) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return 0
}

// stringEnd is where the JSON string ends that a text begins with.
func stringEnd(text []byte) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(text)
}

// ownersKey begins the longest part of most objects, the owners of their fields.
const ownersKey = `"managedFields":[`

// cutOwners is a stored value without the owners of its fields, where no column
// looks at them: it is decoded in half the time.
func cutOwners(value []byte) []byte {
	depth := 0
	for i := len(storedPrefix); i < len(value) && depth >= 0; i++ {
		switch value[i] {
		case '"':
			if depth == 0 && bytes.HasPrefix(value[i:], []byte(ownersKey)) {
				end := i + len(ownersKey)
				end += valueEnd(value[end:], 1)
				if end == len(value) || value[end] != ',' {
					return value // it is the last member, which it never is
				}
				return append(append(make([]byte, 0, len(value)), value[:i]...), value[end+1:]...)
			}
			i += stringEnd(value[i:]) - 1
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
	}
	return value
}

// tableHead is what a Table begins with, up to its rows.
func tableHead(r *resource, meta metav1.ListMeta) (string, error) {
	table, err := tableFor(r, nil, "", true, time.Time{})
	if err != nil {
		return "", err
	}
	table.ListMeta = meta
	raw, err := json.Marshal(table)
	if err != nil {
		return "", err
	}
	whole, found := bytes.CutSuffix(raw, []byte("]}"))
	if !found { // the rows are its last member
		return "", fmt.Errorf("the table of %s does not end with its rows", r.gvr.Resource)
	}
	return string(whole), nil
}

// rowItem appends rows of a Table.
func rowItem(r *resource, include string, now time.Time) func(b []byte, e store.Entry) ([]byte, error) {
	columns := r.shownColumns()
	return func(b []byte, e store.Entry) ([]byte, error) {
		value := e.Value
		if include != "Object" {
			value = cutOwners(value)
		}
		u, err := r.decode(value, e.Revision)
		if err != nil {
			return nil, err
		}
		b = append(b, `{"cells":[`...)
		for i, c := range columns {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendValue(b, c.cell(u.Object, now)); err != nil {
				return nil, err
			}
		}
		b = append(b, `],"object":`...)
		switch include {
		case "None":
			b = append(b, "null"...)
		case "Object":
			b, err = appendValue(b, u.Object)
		default:
			b, err = appendPartial(b, e)
		}
		return append(b, '}'), err
	}
}
