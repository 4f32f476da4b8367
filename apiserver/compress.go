package apiserver

import (
	"compress/gzip"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// compressFrom is the length from which answers are packed, as in Kubernetes.
const compressFrom = 128 << 10

// packers are kept for reuse: each holds some hundred KiB.
var packers = sync.Pool{New: func() any {
	w, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	if err != nil { // the level is a good one
		panic(err)
	}
	return w
}}

// mayCompress tells whether long answers to a request are packed. To a client on
// the same machine that would cost more time than it saves.
func mayCompress(r *http.Request) bool {
	if r.Method == http.MethodHead || !acceptsGzip(r) {
		return false
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false // a unix socket
	}
	ip := net.ParseIP(host)
	return ip != nil && !ip.IsLoopback()
}

// compress begins to pack the answer whose header is about to be written, if it
// is one of objects and long. Streams have neither a length nor an estimate of it, and
// so are never packed.
func (w *response) compress(code int) {
	h := w.Header()
	length, err := strconv.Atoi(h.Get("Content-Length"))
	if w.estimate > 0 {
		length, err = w.estimate, nil
	}
	media := h.Get("Content-Type")
	if code != http.StatusOK || err != nil || length < compressFrom || h.Get("Content-Encoding") != "" ||
		!strings.HasPrefix(media, mediaJSON) && !strings.HasPrefix(media, mediaYAML) {
		return
	}
	h.Add("Vary", "Accept-Encoding")
	if !w.compressible {
		return
	}
	packer, ok := packers.Get().(*gzip.Writer)
	if !ok {
		return
	}
	h.Del("Content-Length")
	h.Set("Content-Encoding", "gzip")
	packer.Reset(w.ResponseWriter)
	w.packer = packer
}

// finish writes what is left of a packed answer.
func (w *response) finish() {
	if w.packer == nil {
		return
	}
	if w.packer.Close() != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
	w.packer.Reset(nil)
	packers.Put(w.packer)
	w.packer = nil
}
