package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"unicode"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

// MaxLog is how much of a build's log is kept, the end of it, in bytes.
const MaxLog = 1 << 20

// Logs keeps the output of the last build of each image, in one file each:
//
//	DIR/UID.log
//
// A file may grow to twice MaxLog before its beginning is dropped. Whoever deletes
// an image removes its log; one that a daemon which was killed has left behind is
// collected as garbage, for which Logs are an inventory. Logs may be used
// concurrently.
type Logs struct {
	dir string

	mu      sync.Mutex
	written map[types.UID]*logFile // those of builds that are under way
}

// NewLogs keeps logs in a folder, which is made when it is needed.
func NewLogs(dir string) *Logs { return &Logs{dir: dir, written: make(map[types.UID]*logFile)} }

func (l *Logs) path(id types.UID) (string, error) {
	if id == "" || strings.ContainsFunc(string(id), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	}) {
		return "", providers.Errorf(providers.ErrInvalid, "build log", "%q is not the UID of an image", id)
	}
	return filepath.Join(l.dir, string(id)+".log"), nil
}

// Create begins the log of a new build in place of the last one's. The caller
// closes it.
func (l *Logs) Create(id types.UID) (io.WriteCloser, error) {
	path, err := l.path(id)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, l.failed(err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, l.failed(err)
	}
	log := &logFile{f: f, changed: make(chan struct{})}
	log.closed = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.written[id] == log {
			delete(l.written, id)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written[id] = log
	return log, nil
}

// failed gives an error of the folder a kind.
func (l *Logs) failed(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return providers.Errorf(providers.ErrCapacity, "build log", "no space is left in %s: make room there: %w", l.dir, err)
	}
	return providers.Errorf(providers.ErrUnavailable, "build log", "%w", err)
}

// Open reads the log of an image's last build; with follow it goes on while that
// is under way, until the context ends. The caller closes it. ErrNotFound when
// nothing was ever built.
func (l *Logs) Open(ctx context.Context, id types.UID, follow bool) (io.ReadCloser, error) {
	path, err := l.path(id)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	log := l.written[id]
	l.mu.Unlock()
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, providers.Errorf(providers.ErrNotFound, "build log", "it has no log of a build: no step has run yet, and none will unless the spec has provision steps")
	case err != nil:
		return nil, err
	case log == nil:
		return f, nil
	}
	return &reader{ctx: ctx, f: f, log: log, follow: follow}, nil
}

// Remove removes a log, if there is one.
func (l *Logs) Remove(id types.UID) error {
	path, err := l.path(id)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("build log: %w", err)
	}
	return nil
}

// logFile is a log that is written. It is only ever appended to, or shortened in
// place.
type logFile struct {
	closed func()

	mu sync.Mutex
	f  *os.File
	// size of the file, which begins after so many dropped bytes of the log.
	size, dropped int64
	// changed is closed at the next change.
	changed chan struct{}
	done    bool
	// lost is how much could not be written since something was.
	lost int64
}

// Write implements io.Writer. A log that cannot be written is no reason to fail:
// what was printed is lost, which the log says where it goes on.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for part := range slices.Chunk(p, MaxLog) {
		if err := l.append(part); err != nil {
			l.lost += int64(len(part))
		}
	}
	l.tell()
	return len(p), nil
}

// append writes all of a part, or nothing of it.
func (l *logFile) append(part []byte) error {
	whole := part
	if l.lost > 0 {
		whole = append(fmt.Appendf(nil, "\n[%d bytes are missing here: they could not be written]\n", l.lost), part...)
	}
	if l.size+int64(len(whole)) > 2*MaxLog {
		if err := l.shorten(); err != nil {
			return err
		}
	}
	if _, err := l.f.WriteAt(whole, l.size); err != nil {
		return errors.Join(err, l.f.Truncate(l.size))
	}
	l.size, l.lost = l.size+int64(len(whole)), 0
	return nil
}

func (l *logFile) tell() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// shorten keeps the end.
func (l *logFile) shorten() error {
	buf := make([]byte, min(l.size, MaxLog))
	drop := l.size - int64(len(buf))
	if _, err := l.f.ReadAt(buf, drop); err != nil {
		return err
	}
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	_, err := l.f.WriteAt(buf, 0)
	l.size, l.dropped = int64(len(buf)), l.dropped+drop
	return err
}

// Close implements io.Closer.
func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done = true
	l.tell()
	l.closed()
	return l.f.Close()
}

// reader reads a log that is being written.
type reader struct {
	ctx    context.Context
	f      *os.File
	log    *logFile
	follow bool
	// at is how much of the log was read or has been dropped.
	at int64
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	for {
		n, more, err := r.some(p)
		if n > 0 || err != nil || more == nil {
			return n, err
		}
		select {
		case <-more:
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
}

// some reads what there is; more is closed once there may be more.
func (r *reader) some(p []byte) (n int, more <-chan struct{}, err error) {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	r.at = max(r.at, r.log.dropped)
	left := r.log.dropped + r.log.size - r.at
	switch {
	case left > 0:
		n, err = r.f.ReadAt(p[:min(int64(len(p)), left)], r.at-r.log.dropped)
		r.at += int64(n)
		return n, nil, err
	case !r.follow || r.log.done:
		return 0, nil, io.EOF
	default:
		return 0, r.log.changed, nil
	}
}

// Close implements io.Closer.
func (r *reader) Close() error { return r.f.Close() }

// printable leaves out what would steer a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\t' || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp) {
			return -1
		}
		return r
	}, s)
}
