package apiserver

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/gnostic-models/openapiv2"
	"github.com/google/gnostic-models/openapiv3"

	"google.golang.org/protobuf/proto"
)

// The media types of protobuf documents. Clients ask for them with an @ that is
// not allowed in a media type; answers have a dot in its place.
const (
	mediaSwaggerProtobuf = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	mediaOpenAPIProtobuf = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
)

// document is a published document. It is kept packed: it has a tenth of the
// size then, and most clients want it so.
type document struct {
	packed []byte
	hash   string // of what is packed, in JSON
}

func newDocument(raw []byte) (document, error) {
	packed, err := pack(raw)
	if err != nil {
		return document{}, err
	}
	sum := sha256.Sum256(raw)
	return document{packed: packed, hash: strings.ToUpper(hex.EncodeToString(sum[:16]))}, nil
}

func pack(raw []byte) ([]byte, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(raw); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func unpack(packed []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// address is where a document of version 3 lies. It has another one when it
// changes, so that clients may keep it for ever.
func (d document) address(path string) string {
	return (&url.URL{Path: "/openapi/v3/" + path, RawQuery: "hash=" + d.hash}).String()
}

// serveOpenAPI answers /openapi/v2, /openapi/v3 and the documents below it.
func (s *Server) serveOpenAPI(w http.ResponseWriter, r *http.Request, version, path string) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return methodNotAllowed(r.Method, r.URL.Path)
	}
	documents, err := s.openAPI()
	if err != nil {
		return err
	}
	if version == "v2" {
		if path != "" {
			return pathNotFound()
		}
		return documents.v2.serve(w, r, mediaSwaggerProtobuf, toProtobuf(openapi_v2.ParseDocument))
	}
	if path == "" {
		return documents.index.serve(w, r, "", nil)
	}
	doc, ok := documents.docs[path]
	if !ok {
		return pathNotFound()
	}
	if hash := r.URL.Query().Get("hash"); hash == doc.hash {
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	} else if hash != "" {
		w.Header().Set("Location", doc.address(path))
		w.WriteHeader(http.StatusMovedPermanently)
		return nil
	}
	return doc.serve(w, r, mediaOpenAPIProtobuf, toProtobuf(openapi_v3.ParseDocument))
}

// toProtobuf makes a function that renders a JSON document as protobuf.
func toProtobuf[T proto.Message](parse func([]byte) (T, error)) func([]byte) ([]byte, error) {
	return func(raw []byte) ([]byte, error) {
		parsed, err := parse(raw)
		if err != nil {
			return nil, err
		}
		return proto.Marshal(parsed)
	}
}

// serve answers with a document, as JSON or, when it can be had so, as
// protobuf. The latter is made anew each time: only old clients want it, once.
func (d document) serve(w http.ResponseWriter, r *http.Request, protobuf string, encode func([]byte) ([]byte, error)) error {
	media := documentMedia(r.Header.Get("Accept"), protobuf)
	if media == "" {
		return notAcceptable(r.Header.Get("Accept"), mediaJSON)
	}
	h := w.Header()
	h.Set("Vary", "Accept, Accept-Encoding")
	tag := strconv.Quote(d.hash)
	h.Set("Etag", tag)
	if matchesTag(r, tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	body, packed := d.packed, true
	var err error
	if media != mediaJSON {
		if body, err = unpack(body); err != nil {
			return err
		}
		if body, err = encode(body); err != nil {
			return err
		}
		packed = false
	}
	switch wanted := acceptsGzip(r); {
	case packed && !wanted:
		body, err = unpack(body)
	case !packed && wanted:
		body, err = pack(body)
	}
	if err != nil {
		return err
	}
	if acceptsGzip(r) {
		h.Set("Content-Encoding", "gzip")
	}
	writeBody(w, http.StatusOK, media, body)
	return nil
}

// documentMedia picks JSON or the given protobuf, which may be empty, by an
// Accept header; empty when the client takes neither.
func documentMedia(header, protobuf string) string {
	if header == "" {
		return mediaJSON
	}
	for _, part := range strings.Split(header, ",") {
		media, _, _ := strings.Cut(part, ";")
		switch media = strings.TrimSpace(media); {
		case media == mediaJSON, media == "*/*", media == "application/*":
			return mediaJSON
		case protobuf != "" && strings.ReplaceAll(media, "@", ".") == protobuf:
			return protobuf
		}
	}
	return ""
}

// matchesTag tells whether a client has what a tag names.
func matchesTag(r *http.Request, tag string) bool {
	for _, known := range strings.Split(r.Header.Get("If-None-Match"), ",") {
		if known = strings.TrimSpace(known); known == tag || known == "W/"+tag || known == "*" {
			return true
		}
	}
	return false
}

// acceptsGzip tells whether a client takes packed answers.
func acceptsGzip(r *http.Request) bool {
	for _, part := range strings.Split(r.Header.Get("Accept-Encoding"), ",") {
		coding, quality, _ := strings.Cut(part, ";")
		if strings.TrimSpace(coding) == "gzip" {
			quality = strings.ReplaceAll(quality, " ", "")
			return quality != "q=0" && quality != "q=0.0"
		}
	}
	return false
}
