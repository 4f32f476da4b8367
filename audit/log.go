package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// maxWaiting bounds the bytes of lines that wait in memory.
const maxWaiting = 1 << 20

// Options of a Log.
type Options struct {
	// Path of the file; its folder is made, for its owner alone.
	Path string
	// MaxSize of a file in bytes, and MaxFiles how many there may be, the current
	// one included.
	MaxSize  int64
	MaxFiles int
	// Sync: a line is on the disk before Record returns.
	Sync bool
	// Failed is told of each line that could not be written.
	Failed func(err error, line []byte)
}

// Log is an audit log. Its methods may be called concurrently.
type Log struct {
	o Options

	mu      sync.Mutex
	file    *os.File
	size    int64
	waiting [][]byte
	bytes   int   // of waiting
	failure error // why lines are waiting
}

// Open opens the log, and fails if it cannot be written.
func Open(o Options) (*Log, error) {
	l := &Log{o: o}
	if err := os.MkdirAll(filepath.Dir(o.Path), 0o700); err != nil {
		return nil, l.problem(err)
	}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

// problem names the log in an error.
func (l *Log) problem(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return fmt.Errorf("audit log %s: %w", l.o.Path, err)
}

// open opens the current file. What a crash left of a line is ended.
func (l *Log) open() error {
	f, err := os.OpenFile(l.o.Path, os.O_RDWR|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return l.problem(err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is no plain file")
	}
	size := int64(0)
	if err == nil {
		size = info.Size()
	}
	if err == nil && size > 0 {
		var last [1]byte
		if _, err = f.ReadAt(last[:], size-1); err == nil && last[0] != '\n' {
			_, err = f.Write([]byte("\n"))
			size++
		}
	}
	if err != nil {
		_ = f.Close()
		return l.problem(err)
	}
	l.file, l.size = f, size
	return nil
}

// Record writes a line, which has no line break in it. One that cannot be
// written waits, behind those that wait already.
func (l *Log) Record(line []byte) {
	line = append(line[:len(line):len(line)], '\n')
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.flush()
	if err == nil {
		err = l.write(line)
	}
	if err == nil {
		return
	}
	l.failure = err
	l.o.Failed(err, line[:len(line)-1])
	if l.bytes+len(line) <= maxWaiting {
		l.waiting = append(l.waiting, line)
		l.bytes += len(line)
	}
}

// Ready tries to write what is waiting, and fails when it cannot.
func (l *Log) Ready() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flush()
}

// Close closes the log.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.flush()
	if l.file == nil {
		return err
	}
	err = errors.Join(err, l.file.Close())
	l.file = nil
	return err
}

// flush writes what is waiting. mu is held.
func (l *Log) flush() error {
	for len(l.waiting) > 0 {
		if err := l.write(l.waiting[0]); err != nil {
			l.failure = err
			return err
		}
		l.bytes -= len(l.waiting[0])
		l.waiting = l.waiting[1:]
	}
	l.waiting, l.failure = nil, nil
	return nil
}

// write appends a line. mu is held.
func (l *Log) write(line []byte) error {
	if l.file == nil {
		if err := l.open(); err != nil {
			return err
		}
	}
	if l.size > 0 && l.size+int64(len(line)) > l.o.MaxSize {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	n, err := l.file.Write(line)
	if err == nil && l.o.Sync {
		err = l.file.Sync()
	}
	if err != nil {
		if n > 0 { // what there is of the line is not left
			if cut := l.file.Truncate(l.size); cut != nil {
				_ = l.file.Close()
				l.file = nil // what is left of the line is ended when it is opened again
			}
		}
		return l.problem(err)
	}
	l.size += int64(n)
	return nil
}

// rotate moves the files on by one. mu is held.
func (l *Log) rotate() error {
	name := func(i int) string {
		if i == 0 {
			return l.o.Path
		}
		return fmt.Sprintf("%s.%d", l.o.Path, i)
	}
	oldest := l.o.MaxFiles - 1
	if err := os.Remove(name(oldest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return l.problem(err)
	}
	for i := oldest - 1; i >= 0; i-- {
		if err := os.Rename(name(i), name(i+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return l.problem(err)
		}
	}
	_ = l.file.Close() // everything in it was written
	l.file = nil
	return l.open()
}
