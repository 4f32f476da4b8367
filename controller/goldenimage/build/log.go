package build

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
// A file may grow to twice MaxLog before its beginning is dropped.
type Logs struct{ dir string }

// NewLogs keeps logs in a folder, which is made when it is needed.
func NewLogs(dir string) *Logs { return &Logs{dir: dir} }

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
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return &logFile{f: f}, nil
}

// Open reads the log of an image's last build. The caller closes it. ErrNotFound
// when nothing was ever built.
func (l *Logs) Open(id types.UID) (*os.File, error) {
	path, err := l.path(id)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, providers.Errorf(providers.ErrNotFound, "build log", "nothing was built yet: an image is built when its spec has provision steps or an installer")
	}
	return f, err
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

// logFile is a log that is written. Readers may have it open: it is only ever
// appended to or rewritten in place.
type logFile struct {
	mu   sync.Mutex
	f    *os.File
	size int64
	err  error
}

// Write implements io.Writer. A log that cannot be written is no reason to fail:
// what was printed is lost.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := p; len(rest) > 0 && l.err == nil; {
		part := rest[:min(len(rest), MaxLog)]
		rest = rest[len(part):]
		if l.size+int64(len(part)) > 2*MaxLog {
			l.err = l.shorten()
		}
		if l.err == nil {
			_, l.err = l.f.WriteAt(part, l.size)
			l.size += int64(len(part))
		}
	}
	return len(p), nil
}

// shorten keeps the end.
func (l *logFile) shorten() error {
	buf := make([]byte, min(l.size, MaxLog))
	if _, err := l.f.ReadAt(buf, l.size-int64(len(buf))); err != nil {
		return err
	}
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	_, err := l.f.WriteAt(buf, 0)
	l.size = int64(len(buf))
	return err
}

// Close implements io.Closer.
func (l *logFile) Close() error { return l.f.Close() }

// printable leaves out what would steer a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\t' {
			return -1
		}
		return r
	}, s)
}
