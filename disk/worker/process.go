package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"sandboxd.dev/sandboxd/disk/change"
)

// File is one file of a disk, open for reading, the top one first.
type File struct {
	File   *os.File
	Format string
}

// Disk is the content of a disk. The caller closes its files once the call that they
// were given to has returned.
type Disk struct {
	Layers []File
	Size   int64
}

// Options of a Reader.
type Options struct {
	// Executable is this program; empty means that of the process.
	Executable string
	// Parallel is how many disks are read at a time; 0 means 2.
	Parallel int
}

// Reader reads disks. It may be used concurrently.
type Reader struct {
	o     Options
	slots chan struct{}
}

// New makes a Reader.
func New(o Options) *Reader {
	if o.Parallel == 0 {
		o.Parallel = 2
	}
	return &Reader{o, make(chan struct{}, o.Parallel)}
}

// Diff tells emit how two disks differ.
func (r *Reader) Diff(ctx context.Context, from, to Disk, touched bool, emit func(change.Line) error) error {
	return r.run(ctx, request{Verb: verbDiff, Touched: touched}, from, to, func(kind byte, payload []byte) error {
		if kind != frameLine {
			return errUnexpected
		}
		l, err := parseLine(payload)
		if err != nil {
			return err
		}
		return emit(l)
	})
}

// Content writes a unified diff of a text file to w. It is escaped.
func (r *Reader) Content(ctx context.Context, from, to Disk, path string, w io.Writer) error {
	return r.run(ctx, request{Verb: verbContent, Path: path}, from, to, func(kind byte, payload []byte) error {
		if kind != frameData {
			return errUnexpected
		}
		for _, c := range payload {
			if c < ' ' && c != '\n' && c != '\t' || c == 0x7f {
				return errUnexpected
			}
		}
		_, err := w.Write(payload)
		return err
	})
}

// Archive tells begin what is at a path of a disk, and then writes it to w as a tar
// stream. The files in it have at most maxBytes together; what else there is in the
// stream grows with their number.
func (r *Reader) Archive(ctx context.Context, d Disk, path string, maxBytes int64, begin func(Header) error, w io.Writer) error {
	begun := false
	return r.run(ctx, request{Verb: verbArchive, Path: path, MaxBytes: maxBytes}, Disk{}, d, func(kind byte, payload []byte) error {
		switch {
		case kind == frameHeader && !begun:
			begun = true
			var h Header
			if err := decode(payload, &h); err != nil || h.Size < 0 || h.Mode&^0o777 != 0 {
				return errUnexpected
			}
			return begin(h)
		case kind == frameData && begun:
			_, err := w.Write(payload)
			return err
		default:
			return errUnexpected
		}
	})
}

// errUnexpected: the child says something that it must not.
var errUnexpected = errors.New("the process that read the disk answered something else than it was asked for")

// table collects the files of disks, each once.
type table struct {
	files []*os.File
	infos []os.FileInfo
}

func (t *table) disk(d Disk) (disk, error) {
	out := disk{Size: d.Size}
	for _, l := range d.Layers {
		n, err := t.index(l.File)
		if err != nil {
			return out, err
		}
		out.Layers = append(out.Layers, layer{n, l.Format})
	}
	return out, nil
}

func (t *table) index(f *os.File) (int, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	for i, known := range t.infos {
		if os.SameFile(known, info) {
			return i, nil
		}
	}
	t.files, t.infos = append(t.files, f), append(t.infos, info)
	return len(t.files) - 1, nil
}

// run runs a child and hands its frames to take.
func (r *Reader) run(ctx context.Context, rq request, from, to Disk, take func(kind byte, payload []byte) error) error {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	var files table
	var err error
	if rq.From, err = files.disk(from); err != nil {
		return err
	}
	if rq.To, err = files.disk(to); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p, err := r.start(ctx, files.files, rq)
	if err != nil {
		return fmt.Errorf("the process that reads disks cannot be started: %w", err)
	}
	err = frames(p.out, take)
	cancel() // whatever it still does
	waitErr := p.wait()
	if errors.Is(err, errEnded) {
		return p.ended(waitErr)
	}
	return err
}

// errEnded: the child ended without telling how.
var errEnded = errors.New("ended")

// frames reads what the child says, up to its last word.
func frames(out io.Reader, take func(kind byte, payload []byte) error) error {
	var buffer []byte
	for {
		kind, payload, err := readFrame(out, buffer)
		buffer = payload
		if errors.Is(err, io.EOF) {
			return errEnded
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errUnexpected, err)
		}
		switch kind {
		case frameEnd:
			return nil
		case frameFailure:
			var f failure
			if err := decode(payload, &f); err != nil || kinds[f.Kind] == nil || !change.Clean(f.Text) {
				return errUnexpected
			}
			text, _ := change.Unescape(f.Text)
			return &Error{kinds[f.Kind], change.Escape(text)}
		}
		if err := take(kind, payload); err != nil {
			return err
		}
	}
}

// process is a child.
type process struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	out    io.Reader
	stderr *bounded
}

func (r *Reader) start(ctx context.Context, files []*os.File, rq request) (*process, error) {
	path := r.o.Executable
	if path == "" {
		path = executable()
	}
	cmd := exec.CommandContext(ctx, path, Command)
	cmd.Args[0] = "sandboxd"
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.ExtraFiles = files
	cmd.WaitDelay = 5 * time.Second
	p := &process{cmd: cmd, stderr: &bounded{}}
	cmd.Stderr = p.stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.stdin = stdin
	if p.out, err = cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if err := writeFrame(stdin, frameRequest, marshal(rq)); err != nil {
		_ = p.wait()
		return nil, p.ended(err)
	}
	return p, nil
}

func (p *process) wait() error {
	_ = p.stdin.Close()
	return p.cmd.Wait()
}

// maxCPU bounds the time of computing of a child, in seconds.
const maxCPU = 1800

// exitThrow is the exit code of Go programs that the runtime ends: for want of memory,
// above all.
const exitThrow = 2

// exhausted tells whether a child ended because of what it read, which would have the
// next one end the same way.
func exhausted(st *os.ProcessState) bool {
	return st != nil && (st.ExitCode() == exitThrow || st.UserTime()+st.SystemTime() >= maxCPU*time.Second)
}

// ended words the end of a child that did not say why.
func (p *process) ended(err error) error {
	text := change.Escape(strings.TrimSpace(p.stderr.String()))
	if line, _, _ := strings.Cut(text, `\x0a`); line != "" {
		text = line
	}
	if exhausted(p.cmd.ProcessState) {
		return &Error{ErrExhausted, fmt.Sprintf("reading it takes more time or memory than is allowed (%v) %s", err, text)}
	}
	return &Error{ErrFailed, fmt.Sprintf("the process that read the disk ended early (%v) %s", err, text)}
}

// bounded keeps the first bytes written to it.
type bounded struct{ bytes.Buffer }

const maxStderr = 4 << 10

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxStderr - b.Len(); room > 0 {
		_, _ = b.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
