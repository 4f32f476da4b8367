// Package worker reads guests' disks in a process that has no rights.
//
//	daemon                                  child: this program again
//	  │ files of the disk, opened ─────────▶ 3, 4, 5 …
//	  │ the request, one frame ────────────▶ standard input, then held open
//	  │                                      │ gives up its user, its groups, new
//	  │                                      │ privileges, files, memory, system calls
//	  │                                      │ and only then reads the request
//	  ◀── frames, each checked and bounded ──┤ standard output
//	      header │ data │ line │ failure │ end
//
// The child parses what a guest wrote. Should a guest take it over, it has the files
// that it was to read, already open and for reading only, and a pipe to a parent that
// takes nothing on trust: frames have a greatest size, lines are parsed strictly and
// names in them must be escaped. It ends with its parent, whose end it sees as that
// of its standard input.
//
// What the child cannot be kept from depends on the system. On Linux it runs as
// nobody when the daemon is root, and a filter leaves it the system calls of reading,
// writing and memory. Elsewhere it has the limits of setrlimit(2), and the user nobody.
package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"sandboxd.dev/sandboxd/disk/block"
	"sandboxd.dev/sandboxd/disk/compare"
	"sandboxd.dev/sandboxd/disk/ext4"
	"sandboxd.dev/sandboxd/disk/partition"
	"sandboxd.dev/sandboxd/disk/volume"
)

// Command is the first argument of a process that is a child.
const Command = "internal-read-disk"

// The kinds of errors, to be tested with errors.Is.
var (
	// ErrNotFound: the disk has no such file.
	ErrNotFound = errors.New("no such file or directory")
	// ErrUnsupported: the disk, or the file, is of a kind that is not read.
	ErrUnsupported = errors.New("not supported")
	// ErrTooLarge: there is more than was asked for.
	ErrTooLarge = errors.New("too large")
	// ErrCorrupt: what is on the disk contradicts itself.
	ErrCorrupt = errors.New("damaged")
	// ErrExhausted: the disk, as it is, takes more time or memory to read than is
	// allowed.
	ErrExhausted = errors.New("takes too much to read")
	// ErrFailed: the disk could not be read, for a reason that is the host's.
	ErrFailed = errors.New("could not be read")
)

// Error is what the child says of a disk that it cannot read.
type Error struct {
	Kind error
	Text string
}

func (e *Error) Error() string { return e.Text }

// Unwrap returns the kind.
func (e *Error) Unwrap() error { return e.Kind }

// kinds are the errors as they are told to the parent.
var kinds = map[string]error{
	"notfound": ErrNotFound, "unsupported": ErrUnsupported, "toolarge": ErrTooLarge, "corrupt": ErrCorrupt, "failed": ErrFailed,
}

func kindOf(err error) string {
	for _, k := range []struct {
		name string
		is   []error
	}{
		{"notfound", []error{ErrNotFound, ext4.ErrNotExist, ext4.ErrNotDir}},
		{"unsupported", []error{ErrUnsupported, block.ErrUnsupported, ext4.ErrUnsupported, volume.ErrUnsupported}},
		{"toolarge", []error{ErrTooLarge, ext4.ErrTooLarge, compare.ErrTooLarge}},
		// What ends too early is damaged: the files themselves were looked at.
		{"corrupt", []error{ErrCorrupt, block.ErrFormat, ext4.ErrCorrupt, partition.ErrCorrupt, io.EOF, io.ErrUnexpectedEOF}},
	} {
		for _, kind := range k.is {
			if errors.Is(err, kind) {
				return k.name
			}
		}
	}
	return "failed"
}

// The types of frames.
const (
	frameRequest = 'r'
	frameHeader  = 'h'
	frameData    = 'd'
	frameLine    = 'l'
	frameFailure = 'f'
	frameEnd     = 'e'
)

// maxFrame bounds a frame, in bytes: a path and a target, escaped, twice.
const maxFrame = 128 << 10

// The verbs of a request.
const (
	verbDiff    = "diff"
	verbArchive = "archive"
	verbContent = "content"
)

// request is what the child is to do.
type request struct {
	Verb string `json:"verb"`
	From disk   `json:"from"`
	To   disk   `json:"to"`
	// Path of an archive or a content.
	Path string `json:"path,omitempty"`
	// MaxBytes bounds an archive.
	MaxBytes int64 `json:"maxBytes,omitempty"`
	Touched  bool  `json:"touched,omitempty"`
}

// disk names the files of a disk among those that the child was given.
type disk struct {
	Layers []layer `json:"layers"`
	Size   int64   `json:"size"`
}

type layer struct {
	// File is the index of the file: equal for the same file.
	File   int    `json:"file"`
	Format string `json:"format"`
}

// Header describes what an archive holds.
type Header struct {
	// Dir: the path is a directory, whose contents are packed. Otherwise the archive
	// has one file, with the last element of its path as its name.
	Dir bool `json:"dir"`
	// Size of a file, in bytes.
	Size int64 `json:"size"`
	// Mode holds its permission bits.
	Mode uint32 `json:"mode"`
}

type failure struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
}

func marshal(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil { // everything here marshals
		panic(fmt.Sprintf("%T: %v", v, err))
	}
	return raw
}
