package access

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"sandboxd.dev/sandboxd/guest/wire"
	"sandboxd.dev/sandboxd/providers"
)

const (
	// streamsTimeout is how long a client may take to open the streams that it
	// has asked for.
	streamsTimeout = 30 * time.Second
	// maxStreams bounds how many streams a client of exec opens.
	maxStreams = 5
)

// spdyProtocols are the versions of Kubernetes' exec over SPDY. Those from the
// third on know the size of a terminal, the fourth tells the end by a Status.
var spdyProtocols = []string{"v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"}

// spdyClient is a client that opens a SPDY stream for each of its streams.
type spdyClient struct {
	conn    httpstream.Connection
	raw     *watchedConn
	version string
	want    wanted
	streams map[string]httpstream.Stream // by type
	in      *io.PipeReader
	feed    *io.PipeWriter
	resized latest
}

// watchedConn tells when it cannot be written to any more: nobody may be reading,
// and so find out, while the guest is waited for.
type watchedConn struct {
	net.Conn
	reader io.Reader
	mu     sync.Mutex
	broken func()
}

// Read implements net.Conn.
func (c *watchedConn) Read(p []byte) (int, error) { return c.reader.Read(p) }

// Write implements net.Conn.
func (c *watchedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.broken != nil {
			c.broken()
		}
	}
	return n, err
}

func (c *watchedConn) onBroken(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = f
}

// upgradeSPDY takes a request's connection over.
func upgradeSPDY(w http.ResponseWriter, r *http.Request, versions []string, opened httpstream.NewStreamHandler) (httpstream.Connection, *watchedConn, string, error) {
	if !httpstream.IsUpgradeRequest(r) || !strings.EqualFold(r.Header.Get("Upgrade"), spdy.HeaderSpdy31) {
		return nil, nil, "", badRequestf("the upgrade to %q is not known: ask for SPDY/3.1 or a WebSocket", r.Header.Get("Upgrade"))
	}
	var asked []string
	for _, line := range r.Header.Values(httpstream.HeaderProtocolVersion) {
		for p := range strings.SplitSeq(line, ",") {
			asked = append(asked, strings.TrimSpace(p))
		}
	}
	if len(asked) == 0 {
		asked = versions[len(versions)-1:] // the oldest clients name none
	}
	i := slices.IndexFunc(asked, func(p string) bool { return slices.Contains(versions, p) })
	if i < 0 {
		for _, p := range versions {
			w.Header().Add(httpstream.HeaderAcceptedProtocolVersions, p)
		}
		return nil, nil, "", badRequestf("the client speaks %q, of which none is known here", asked)
	}
	h := w.Header()
	h.Set(httpstream.HeaderProtocolVersion, asked[i])
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", spdy.HeaderSpdy31)
	w.WriteHeader(http.StatusSwitchingProtocols)
	raw, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, "", nil // nobody is left to tell
	}
	conn := &watchedConn{Conn: raw, reader: bufferedFirst(buffered.Reader, raw)}
	over, err := spdy.NewServerConnectionWithPings(&framedConn{Conn: conn}, opened, pingInterval)
	if err != nil { // it has closed the connection
		return nil, nil, "", nil //nolint:nilerr // nobody is left to tell
	}
	return over, conn, asked[i], nil
}

// bufferedFirst reads what was read ahead, then the connection itself.
func bufferedFirst(ahead *bufio.Reader, conn net.Conn) io.Reader {
	if ahead.Buffered() == 0 {
		return conn
	}
	return ahead
}

func acceptSPDY(w http.ResponseWriter, r *http.Request, want wanted) (remote, error) {
	type opening struct {
		httpstream.Stream
		replied <-chan struct{}
	}
	opened := make(chan opening, maxStreams)
	conn, raw, version, err := upgradeSPDY(w, r, spdyProtocols, func(s httpstream.Stream, replied <-chan struct{}) error {
		select {
		case opened <- opening{s, replied}:
			return nil
		default:
			return fmt.Errorf("a client opens more than %d streams", maxStreams)
		}
	})
	if err != nil || conn == nil {
		return nil, err
	}
	c := &spdyClient{conn: conn, raw: raw, version: version, want: want, streams: map[string]httpstream.Stream{}, resized: newLatest()}
	c.in, c.feed = io.Pipe()
	late := time.NewTimer(streamsTimeout)
	defer late.Stop()
	for expected := c.expected(); len(expected) > 0; {
		select {
		case s := <-opened:
			kind := s.Headers().Get(corev1.StreamType)
			expected = slices.DeleteFunc(expected, func(e string) bool { return e == kind })
			c.streams[kind] = s.Stream
			select {
			case <-s.replied:
			case <-conn.CloseChan():
			}
		case <-conn.CloseChan():
			c.close()
			return nil, nil //nolint:nilnil // the client is gone
		case <-late.C:
			c.close()
			return nil, nil //nolint:nilnil // nobody listens
		case <-r.Context().Done():
			c.close()
			return nil, nil //nolint:nilnil // the daemon is stopping
		}
	}
	return c, nil
}

// expected are the types of the streams that the client opens.
func (c *spdyClient) expected() []string {
	list := []string{corev1.StreamTypeError}
	for kind, is := range map[string]bool{
		corev1.StreamTypeStdin: c.want.stdin, corev1.StreamTypeStdout: c.want.stdout, corev1.StreamTypeStderr: c.want.stderr,
		corev1.StreamTypeResize: c.want.tty && (c.version == spdyProtocols[0] || c.version == spdyProtocols[1]),
	} {
		if is {
			list = append(list, kind)
		}
	}
	return list
}

// close ends the connection, whatever is still under way on it.
func (c *spdyClient) close() {
	_ = c.raw.SetDeadline(time.Now().Add(time.Second))
	_ = c.conn.Close()
	_ = c.raw.Close()
}

func (c *spdyClient) stdin() io.ReadCloser { return c.in }

func (c *spdyClient) sizes() <-chan providers.TerminalSize { return c.resized }

func (c *spdyClient) start(_ context.Context, gone func(error)) (stop func()) {
	var running sync.WaitGroup
	over := make(chan struct{})
	lost := func() {
		gone(errClientGone)
		_ = c.feed.CloseWithError(errClientGone)
	}
	c.raw.onBroken(lost)
	running.Go(func() {
		select {
		case <-c.conn.CloseChan():
			lost()
		case <-over:
		}
	})
	if s := c.streams[corev1.StreamTypeStdin]; s != nil {
		running.Go(func() {
			_, err := io.Copy(c.feed, s)
			_ = c.feed.CloseWithError(err) // nil means the end
			// A client that sends more must not wait for who does not read it.
			_, _ = io.Copy(io.Discard, s)
		})
	} else {
		_ = c.feed.Close()
	}
	if s := c.streams[corev1.StreamTypeResize]; s != nil {
		running.Go(func() {
			from := json.NewDecoder(s)
			for {
				var raw json.RawMessage
				if from.Decode(&raw) != nil {
					return
				}
				if size, ok := parseSize(raw); ok {
					c.resized.put(size)
				}
			}
		})
	}
	return func() {
		_ = c.in.Close()
		close(over)
		c.raw.onBroken(nil)
		c.close()
		running.Wait()
	}
}

func (c *spdyClient) output(_ context.Context, channel byte) io.Writer {
	s := c.streams[map[byte]string{wire.Stdout: corev1.StreamTypeStdout, wire.Stderr: corev1.StreamTypeStderr}[channel]]
	return writerFunc(func(p []byte) (int, error) {
		for done := 0; done < len(p); {
			n := min(len(p)-done, maxChunk)
			if _, err := s.Write(p[done : done+n]); err != nil {
				return done, errClientGone
			}
			done += n
		}
		return len(p), nil
	})
}

func (c *spdyClient) end(_ context.Context, status metav1.Status) {
	_ = c.raw.SetWriteDeadline(time.Now().Add(farewell))
	for kind, s := range c.streams {
		if kind != corev1.StreamTypeError {
			_ = s.Close()
		}
	}
	s := c.streams[corev1.StreamTypeError]
	if c.version == spdyProtocols[0] {
		if raw, err := json.Marshal(status); err == nil {
			_, _ = s.Write(raw)
		}
	} else {
		_, _ = io.WriteString(s, toldInText(status))
	}
	_ = s.Close()
}
