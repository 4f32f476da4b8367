// Package fetch downloads large files from servers that nobody vouches for.
//
//	Get ──▶ begin: whole, or from where the last one ended (Range, If-Range)
//	         │
//	         ▼
//	        receive ──stalls, is cut off──▶ begin, while each try brings more
//	         │                                │
//	         ▼                                ▼ no more, or the context ends
//	        Dir/file, complete             Dir/file as far as it came, Dir/state
//
// What was received stays only where the next Get can go on from it: when the
// server named the version of the file (ETag, Last-Modified) or the address does
// (a digest). Dir/state says which, and how much of it is known to be on disk:
// that is written only after the file was synced, and what lies beyond, which a
// power failure may have left as zeros, is received again. Anything else that goes
// wrong removes Dir.
//
// A server may lie in all that it says. The size is bounded whether it names one
// or not, a stream that stops is given up, and what comes is never looked at
// here: whoever has a digest compares it with File.Digest.
package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

// Defaults and bounds.
const (
	// DefaultStall is how long a server may send nothing.
	DefaultStall = time.Minute
	// Margin is the space that is left free on the file system, in bytes.
	Margin = 64 << 20
	// tries is how often in a row a download that brings something is begun.
	tries = 8
	// spaceEvery is after how many bytes the space is looked at, and what was
	// received is brought to disk.
	spaceEvery = 64 << 20
	block      = 256 << 10
)

// Doer sends a request; an *http.Client is one.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// Request is one download.
type Request struct {
	// Object is what messages call that which the file is for.
	Object string
	URL    string
	// Dir is the folder of the download, which is made.
	Dir string
	// MaxBytes that the file may have.
	MaxBytes int64
	// Immutable: whatever the address gives is always the same.
	Immutable bool
	// Stall is how long the server may send nothing; 0 means DefaultStall.
	Stall time.Duration
	// Client sends the requests; nil means NewClient.
	Client Doer
	// Progress is told how far it got; total is 0 when it is not known.
	Progress func(done, total int64)
	// Step is called before each change of the data folder; may be nil.
	Step func()
}

// File is what was downloaded.
type File struct {
	// Path of the file, in the request's Dir.
	Path string
	// Digest is its sha256, in hexadecimal.
	Digest string
	Size   int64
	// Resumed: a part of it was received before this Get.
	Resumed bool
}

// Get downloads a file. Errors are of kind ErrNotFound (the server has no such
// file), ErrUnavailable (it does not answer, stalls, or breaks off), ErrInvalid
// (it refuses, or the file is too large), ErrCapacity, or the context's.
func Get(ctx context.Context, r Request) (File, error) {
	if r.Stall == 0 {
		r.Stall = DefaultStall
	}
	if r.Client == nil {
		r.Client = NewClient()
	}
	if r.Step == nil {
		r.Step = func() {}
	}
	if r.Progress == nil {
		r.Progress = func(int64, int64) {}
	}
	d := &download{Request: r, sum: sha256.New()}
	f, err := d.run(ctx)
	if err != nil && !d.worthKeeping(err) {
		_ = os.RemoveAll(r.Dir)
	}
	return f, err
}

// Kept tells whether a failed Get may have left something to go on from.
func Kept(err error) bool {
	return errors.Is(err, providers.ErrUnavailable) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// download is a Get under way.
type download struct {
	Request
	out      *os.File
	state    state
	patience *patience
	sum      hash.Hash
	// have is how many bytes were received and hashed.
	have int64
	// resumed: some of them before this Get.
	resumed bool
}

func (d *download) worthKeeping(err error) bool {
	return Kept(err) && d.have > 0 && d.resumable()
}

func (d *download) resumable() bool { return d.Immutable || d.state.validator() != "" }

func (d *download) file() string { return filepath.Join(d.Dir, "file") }

func (d *download) run(ctx context.Context) (File, error) {
	if err := d.open(ctx); err != nil {
		return File{}, err
	}
	defer func() { _ = d.out.Close() }()
	var err error
	for range tries {
		before := d.have
		if err = d.attempt(ctx); err == nil {
			break
		}
		if !errors.Is(err, providers.ErrUnavailable) || d.have <= before || !d.resumable() {
			break
		}
	}
	// Holes at the end, and the blocks of the next one's beginning.
	cut := d.out.Truncate(d.have)
	if cut == nil && (err == nil || d.worthKeeping(err)) {
		cut = d.sync()
	}
	if cut != nil && err == nil {
		err = files.Error(d.Object, filepath.Dir(d.Dir), cut)
	}
	if err != nil {
		return File{}, err
	}
	return File{Path: d.file(), Digest: hex.EncodeToString(d.sum.Sum(nil)), Size: d.have, Resumed: d.resumed}, nil
}

// open takes up what an earlier Get left, if it is of the same address.
func (d *download) open(ctx context.Context) error {
	d.Step()
	if err := files.Mkdir(d.Dir, 0o700); err != nil {
		return err
	}
	var err error
	if d.out, err = os.OpenFile(d.file(), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return err
	}
	d.state = readState(d.Dir)
	if d.state.URL != d.URL || !d.resumable() {
		return d.restart()
	}
	if err = d.cutUnsynced(); err == nil {
		d.have, err = d.rehash(ctx)
	}
	if err != nil {
		_ = d.out.Close()
		return err
	}
	d.resumed = d.have > 0
	return nil
}

// cutUnsynced drops what is not known to be on disk.
func (d *download) cutUnsynced() error {
	info, err := d.out.Stat()
	if err != nil || info.Size() <= d.state.Synced {
		return err
	}
	d.Step()
	return d.out.Truncate(d.state.Synced)
}

// sync brings what was received to disk, and only then says so.
func (d *download) sync() error {
	if d.state.URL == "" || !d.resumable() || d.state.Synced == d.have {
		return d.out.Sync()
	}
	// A file that ends with a hole is as long as what was received.
	if err := errors.Join(d.out.Truncate(d.have), d.out.Sync()); err != nil {
		return err
	}
	d.state.Synced = d.have
	d.Step()
	return d.state.write(d.Dir)
}

// rehash hashes what is there already.
func (d *download) rehash(ctx context.Context) (int64, error) {
	if info, err := d.out.Stat(); err != nil || info.Size() > d.MaxBytes {
		return 0, errors.Join(err, d.restart())
	}
	buf := make([]byte, block)
	var n int64
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		k, err := d.out.ReadAt(buf, n)
		d.sum.Write(buf[:k])
		n += int64(k)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// restart forgets what was received.
func (d *download) restart() error {
	d.sum.Reset()
	d.have, d.resumed, d.state = 0, false, state{}
	d.Step()
	if err := os.Remove(statePath(d.Dir)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return d.out.Truncate(0)
}

// attempt makes one request and receives what it brings.
func (d *download) attempt(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.patience = newPatience(d.Stall, cancel)
	defer d.patience.rest()
	resp, err := d.begin(ctx)
	if err != nil {
		return d.broken(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	return d.broken(ctx, d.receive(ctx, resp.Body))
}

// broken gives what ended a request a kind, unless it has one.
func (d *download) broken(ctx context.Context, err error) error {
	switch {
	case err == nil || providers.KindOf(err) != nil:
		return err
	case errors.Is(context.Cause(ctx), errStalled):
		return providers.Errorf(providers.ErrUnavailable, d.Object, "%s sent nothing for %s, after %d bytes: it is tried again", Shown(d.URL), d.Stall, d.have)
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, io.ErrUnexpectedEOF):
		return d.cutOff()
	}
	return TransportError(d.Object, Shown(d.URL), err)
}

// receive writes the body behind what is there. Blocks of zeros become holes.
func (d *download) receive(ctx context.Context, body io.Reader) error {
	buf := make([]byte, block)
	zeros := make([]byte, block)
	checked := d.have
	for {
		n, err := io.ReadAtLeast(body, buf, 1)
		if n > 0 {
			if werr := d.write(buf[:n], zeros[:n]); werr != nil {
				return files.Error(d.Object, filepath.Dir(d.Dir), werr)
			}
			d.report()
		}
		switch {
		case d.have > d.MaxBytes:
			return d.tooLarge(d.have)
		case errors.Is(err, io.EOF):
			return d.complete()
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
		if d.have-checked >= spaceEvery {
			checked = d.have
			if free := files.Free(d.Dir); free < Margin {
				return d.noRoom(d.state.Size-d.have, free)
			}
			if err := d.sync(); err != nil {
				return files.Error(d.Object, filepath.Dir(d.Dir), err)
			}
		}
	}
}

// report tells how far it got; a server may send more than it says.
func (d *download) report() {
	done := d.have
	if d.state.Size > 0 {
		done = min(done, d.state.Size)
	}
	d.Progress(done, d.state.Size)
}

func (d *download) write(b, zeros []byte) error {
	if string(b) != string(zeros) {
		if _, err := d.out.WriteAt(b, d.have); err != nil {
			return err
		}
	}
	d.sum.Write(b)
	d.have += int64(len(b))
	return nil
}

// complete finds out whether the end of the body is that of the file.
func (d *download) complete() error {
	if d.state.Size > 0 && d.have < d.state.Size {
		return d.cutOff()
	}
	if d.state.Size > 0 && d.have > d.state.Size {
		_ = d.restart()
		return providers.Errorf(providers.ErrUnavailable, d.Object, "%s sent more bytes than it said it would: it is tried again from the beginning", Shown(d.URL))
	}
	return nil
}

func (d *download) cutOff() error {
	of := ""
	if d.state.Size > 0 {
		of = fmt.Sprintf(" of %d", d.state.Size)
	}
	return providers.Errorf(providers.ErrUnavailable, d.Object, "%s was cut off after %d%s bytes: it is tried again", Shown(d.URL), d.have, of)
}

func (d *download) tooLarge(size int64) error {
	return providers.Errorf(providers.ErrInvalid, d.Object, "%s has %d bytes or more, and the limit is %d: raise spec.source.disk.maxSize or the daemon's limit, or name another file",
		Shown(d.URL), size, d.MaxBytes)
}

func (d *download) noRoom(need, free int64) error {
	if need < 0 {
		need = 0
	}
	return providers.Errorf(providers.ErrCapacity, d.Object, "downloading it needs about %d MiB more in %s, where %d MiB are free",
		(need+Margin)>>20, filepath.Dir(d.Dir), free>>20)
}
