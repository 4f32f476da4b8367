// Package consolelog reads the log of a serial console, which somebody else writes to
// and begins anew in another file now and then.
//
//	what the guest prints ──▶ Path ──renamed──▶ the newest of Older … the oldest ──▶ gone, or appended
//	                                                                                to Archive
//	read: Archive, Older, Path ──▶ its end ──every 100 ms──▶ more of it ──▶ read on
//	                                                         newer files ─▶ read on there
//	                                                         shorter ─────▶ read from its beginning
//	                                                         no folder ───▶ the end
//
// The beginning of a file may be a hole, because its space was freed: that is passed
// over. What comes and is gone again between two looks is missed.
package consolelog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"sandboxd.dev/sandboxd/providers"
)

// poll is how often a log that is followed is looked at.
const poll = 100 * time.Millisecond

// Log says where a log is, and where it goes on.
type Log struct {
	// Path of the file that is written to, if it is there. The log ends with its
	// folder.
	Path string
	// Older lists the files that were Path before, oldest first. They need not be
	// there.
	Older func() ([]string, error)
	// Archive, if it is not empty, is the file that those are appended to that are
	// Older no more.
	Archive string
	// Over is closed when nobody is to follow it any more.
	Over <-chan struct{}
	// Error gives an error of the files its object and its kind.
	Error func(error) error
}

// Open opens a log as providers.Guests.Console does. One that nobody has written yet
// is empty. Close ends a Read that waits.
func (l Log) Open(ctx context.Context, opts providers.ConsoleOptions) (io.ReadCloser, error) {
	r := &reader{ctx: ctx, log: l, follow: opts.Follow, lingers: opts.Follow, closed: make(chan struct{})}
	err := r.open()
	if err == nil && opts.TailBytes >= 0 {
		err = r.skip(opts.TailBytes)
	}
	if err != nil {
		_ = r.Close()
		return nil, l.failed(err)
	}
	return r, nil
}

func (l Log) failed(err error) error {
	return l.Error(fmt.Errorf("the log of its console cannot be read: %w", err))
}

// reader reads one file after the other.
type reader struct {
	ctx    context.Context
	log    Log
	once   sync.Once
	closed chan struct{}

	mu     sync.Mutex // not held while it waits
	follow bool
	files  []*file // the one that is read first; the last one may grow
	// lingers: what comes last to the file before the last one may come late. It is
	// read until nothing has come from one look to the next.
	lingers bool
}

// open opens the files there are.
func (r *reader) open() error {
	var err error
	if r.files, err = r.newer(nil); err != nil || r.log.Archive == "" {
		return err
	}
	// Last, for what is appended to it meanwhile.
	f, err := openFile(r.log.Archive)
	if f == nil || err != nil {
		return err
	}
	f.end = f.info.Size() // what comes later is in the others
	r.files = slices.Insert(r.files, 0, f)
	return nil
}

// newer opens the files that come after another one, or all but the Archive. They are
// looked for from the newest on: one that is renamed meanwhile is found twice then, and
// not missed.
func (r *reader) newer(than os.FileInfo) (found []*file, err error) {
	defer func() {
		if err != nil {
			_ = closeAll(found)
			found = nil
		}
	}()
	done, err := r.find(r.log.Path, than, &found)
	if done || err != nil {
		return found, err
	}
	older, err := r.log.Older()
	if err != nil {
		return found, err
	}
	for _, path := range slices.Backward(older) {
		if done, err := r.find(path, than, &found); done || err != nil {
			return found, err
		}
	}
	return found, nil
}

// find puts a file before those that were found. It is done where that is the one that
// newer ones are looked for.
func (r *reader) find(path string, than os.FileInfo, found *[]*file) (done bool, err error) {
	f, err := openFile(path)
	if f == nil || err != nil {
		return false, err
	}
	if than != nil && os.SameFile(f.info, than) {
		return true, f.Close()
	}
	if len(*found) > 0 && os.SameFile(f.info, (*found)[0].info) {
		return false, f.Close()
	}
	*found = slices.Insert(*found, 0, f)
	return false, nil
}

// skip leaves at most tail bytes to read.
func (r *reader) skip(tail int64) error {
	for _, f := range slices.Backward(r.files) {
		begin, end, err := Extent(f.File)
		if err != nil {
			return err
		}
		f.at = max(begin, end-tail)
		tail -= end - f.at
	}
	return nil
}

// Read implements io.Reader.
func (r *reader) Read(b []byte) (int, error) {
	for {
		if err := r.over(); err != nil || len(b) == 0 {
			return 0, err
		}
		n, follow, err := r.take(b)
		switch {
		case err != nil:
			return 0, r.log.failed(err)
		case n > 0:
			return n, nil
		case !follow:
			return 0, io.EOF
		}
		if err := r.wait(); err != nil {
			return 0, err
		}
		if err := r.look(); err != nil {
			return 0, r.log.failed(err)
		}
	}
}

func (r *reader) over() error {
	select {
	case <-r.closed:
		return os.ErrClosed
	default:
		return r.ctx.Err()
	}
}

// take reads what there is.
func (r *reader) take(b []byte) (n int, follow bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.files) > 0 {
		n, err := r.files[0].read(b)
		if n > 0 {
			return n, r.follow, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, false, err
		}
		if left := len(r.files); left == 1 || left == 2 && r.follow && r.lingers {
			break
		}
		_ = r.files[0].Close()
		r.files = r.files[1:]
	}
	return 0, r.follow, nil
}

func (r *reader) wait() error {
	t := time.NewTimer(poll)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	case <-r.closed:
		return os.ErrClosed
	case <-r.log.Over:
		return io.EOF
	}
}

// look finds out how the log goes on.
func (r *reader) look() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := os.Lstat(filepath.Dir(r.log.Path)); errors.Is(err, fs.ErrNotExist) {
		r.follow = false // once what is open was read
		return nil
	}
	switch {
	case r.over() != nil: // nothing may be opened any more
		return nil
	case len(r.files) == 0:
		newer, err := r.newer(nil)
		r.files = newer
		return err
	}
	f := r.files[0] // there is nothing more in it so far
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if len(r.files) > 1 { // it lingers
		r.lingers = f.end < 0 && info.Size() > f.at
		return nil
	}
	newer, err := r.newer(info)
	r.files, r.lingers = append(r.files, newer...), len(newer) > 0
	if len(newer) == 0 && f.end < 0 && info.Size() < f.at {
		f.at = 0 // it was begun anew
	}
	return err
}

// Close implements io.Closer. It may be called while somebody reads.
func (r *reader) Close() error {
	r.once.Do(func() { close(r.closed) })
	r.mu.Lock()
	defer r.mu.Unlock()
	err := closeAll(r.files)
	r.files = nil
	return err
}

func closeAll(files []*file) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
