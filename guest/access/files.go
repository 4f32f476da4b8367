package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"sandboxd.dev/sandboxd/guest/wire"
	"sandboxd.dev/sandboxd/providers"
)

// defaultMode is the mode of files whose writer names none.
const defaultMode = 0o644

// Files reads and writes one file of the guest: GET streams it, PUT replaces it
// by the body.
func (h *Handlers) Files(w http.ResponseWriter, r *http.Request, parent *unstructured.Unstructured) {
	h.enter(w, r, parent, func(m machine) error {
		name, err := parsePath(r)
		if err != nil {
			return err
		}
		if r.Method == http.MethodPut {
			return writeFile(w, r, m, name)
		}
		out := newStream(w, r, "application/octet-stream", wire.TrailerSize, wire.TrailerMode)
		info, err := m.ReadFile(r.Context(), name, out)
		if err == nil {
			out.trailer(wire.TrailerSize, strconv.FormatInt(info.Size, 10))
			out.trailer(wire.TrailerMode, fmt.Sprintf("%04o", info.Mode))
		}
		return h.finish(out, m, err)
	})
}

func writeFile(w http.ResponseWriter, r *http.Request, m machine, name string) error {
	mode := uint64(defaultMode)
	if text := r.URL.Query().Get(wire.ParamMode); text != "" {
		var err error
		if mode, err = strconv.ParseUint(text, 8, 32); err != nil || mode > 0o777 {
			return badRequestf("mode %q is not an octal number up to 777", text)
		}
	}
	if err := m.WriteFile(r.Context(), name, uint32(mode), bodyOf(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// parsePath reads the path of a file or directory of the guest.
func parsePath(r *http.Request) (string, error) {
	name := r.URL.Query().Get(wire.ParamPath)
	if !path.IsAbs(name) || strings.ContainsRune(name, 0) {
		return "", badRequestf("path %q is not an absolute path in the guest", name)
	}
	return name, nil
}

// bodyOf reads a request's body; its errors say whose fault they are.
func bodyOf(r *http.Request) io.Reader { return bodyReader{r.Body} }

type bodyReader struct{ r io.Reader }

func (b bodyReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = badRequestf("the body could not be read: %v", err)
	}
	return n, err
}

// stream sends a body of unknown length. Until its first byte an error can
// still be answered as a Status.
type stream struct {
	w       http.ResponseWriter
	r       *http.Request
	media   string
	begun   bool
	failed  bool // the client is gone
	flushed bool // send each piece at once
	// stall is how long the client may take nothing; 0: as long as it likes.
	stall time.Duration
}

// newStream makes a stream with trailers.
func newStream(w http.ResponseWriter, r *http.Request, media string, trailers ...string) *stream {
	w.Header().Set("Trailer", strings.Join(append(trailers, wire.TrailerError), ", "))
	return &stream{w: w, r: r, media: media}
}

// begin sends the headers.
func (s *stream) begin() {
	if s.begun {
		return
	}
	s.begun = true
	s.w.Header().Set("Content-Type", s.media)
	s.w.Header().Set("Cache-Control", "no-store")
	s.w.WriteHeader(http.StatusOK)
}

// Write implements io.Writer.
func (s *stream) Write(p []byte) (int, error) {
	s.begin()
	if s.stall > 0 { // not every writer has deadlines
		_ = http.NewResponseController(s.w).SetWriteDeadline(time.Now().Add(s.stall))
	}
	n, err := s.w.Write(p)
	if err == nil && s.flushed {
		err = http.NewResponseController(s.w).Flush()
	}
	s.failed = s.failed || err != nil
	return n, err
}

// trailer sends a value behind the body.
func (s *stream) trailer(name, value string) {
	s.begin()
	s.w.Header().Set(name, value)
}

// finish ends a stream, well or with an error. Before the first byte the error
// is the caller's to answer.
func (h *Handlers) finish(s *stream, m machine, err error) error {
	ended := context.Cause(s.r.Context())
	if ended != nil && !errors.Is(ended, context.Canceled) && !s.failed {
		err = ended // the client is there and can be told
	}
	switch {
	case err == nil:
		s.begin()
		return nil
	case s.failed || errors.Is(err, context.Canceled) && s.r.Context().Err() != nil:
		panic(http.ErrAbortHandler) // nobody is there to be told
	case !s.begun:
		return err
	}
	if strings.EqualFold(s.r.Header.Get("TE"), "trailers") {
		s.trailer(wire.TrailerError, strings.Join(strings.Fields(message(m.object, err)), " "))
		return nil
	}
	h.o.Logger.Info("A transfer was broken off", "sandbox", m.object, "error", err.Error())
	panic(http.ErrAbortHandler)
}

// tarError says why tar failed in the guest. What it printed is the guest's own
// word: bounded and made printable.
func tarError(m machine, what, said string) error {
	return providers.Errorf(providers.ErrInvalid, m.object, "tar could not %s: %s", what, printable(said))
}

// printable keeps a guest's text to one printable line of bounded length.
func printable(text string) string {
	const most = 300
	text = strings.Map(func(c rune) rune {
		if !strconv.IsPrint(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(text, "?"))
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	if text == "" {
		return "it says nothing more"
	}
	return text
}
