package worker

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"sandboxd.dev/sandboxd/disk/block"
	"sandboxd.dev/sandboxd/disk/change"
	"sandboxd.dev/sandboxd/disk/compare"
	"sandboxd.dev/sandboxd/disk/volume"
)

// IsChild tells whether a process was started to read a disk: then it calls Main and
// does nothing else.
func IsChild(args []string) bool { return len(args) == 2 && args[1] == Command }

// firstFile is the descriptor of the first file.
const firstFile = 3

// memoryLimit is what the collector of garbage aims at, in bytes; the system's limit
// is higher.
const memoryLimit = 512 << 20

// Main is the child. It returns the exit code of the process.
func Main() int {
	if err := confine(); err != nil {
		fmt.Fprintf(os.Stderr, "rights cannot be given up: %v\n", err)
		return 1
	}
	debug.SetMemoryLimit(memoryLimit)
	kind, raw, err := readFrame(os.Stdin, nil)
	if err != nil || kind != frameRequest {
		fmt.Fprintf(os.Stderr, "there is no request: %v\n", err)
		return 1
	}
	go func() { // the parent's end
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	out := bufio.NewWriterSize(os.Stdout, 256<<10)
	err = answer(out, raw)
	if err != nil {
		text := err.Error()
		err = writeFrame(out, frameFailure, marshal(failure{kindOf(err), change.Escape(text[:min(len(text), 8<<10)])}))
	} else {
		err = writeFrame(out, frameEnd, nil)
	}
	if err != nil || out.Flush() != nil {
		return 1
	}
	return 0
}

// answer does what a request asks for.
func answer(out io.Writer, raw []byte) error {
	var r request
	if err := decode(raw, &r); err != nil {
		return fmt.Errorf("the request cannot be read: %w", err)
	}
	files := map[int]*os.File{}
	to, err := r.To.open(files)
	if err != nil {
		return err
	}
	switch r.Verb {
	case verbArchive:
		return pack(out, to, r.Path, r.MaxBytes)
	case verbDiff, verbContent:
	default:
		return fmt.Errorf("the request %q is not known", r.Verb)
	}
	from, err := r.From.open(files)
	if err != nil {
		return err
	}
	if r.Verb == verbContent {
		return content(out, from, to, r.Path)
	}
	return compare.Diff(context.Background(), from, to, compare.Options{Touched: r.Touched}, func(l change.Line) error {
		return writeFrame(out, frameLine, marshal(l))
	})
}

// open puts a disk together.
func (d disk) open(files map[int]*os.File) (*volume.Disk, error) {
	layers, ids := make([]block.Layer, 0, len(d.Layers)), make([]int, 0, len(d.Layers))
	for _, l := range d.Layers {
		f, ok := files[l.File]
		if !ok {
			f = os.NewFile(uintptr(firstFile+l.File), "disk")
			files[l.File] = f
		}
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		opened, err := block.Open(f, info.Size(), l.Format)
		if err != nil {
			return nil, err
		}
		layers, ids = append(layers, opened), append(ids, l.File+1)
	}
	composed, err := block.Compose(layers, ids, d.Size)
	if err != nil {
		return nil, err
	}
	return volume.Open(composed)
}
