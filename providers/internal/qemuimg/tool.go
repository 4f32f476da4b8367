package qemuimg

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

// Limits of one run of qemu-img.
const (
	maxOutput    = 1 << 20          // of stdout and stderr each, in bytes
	infoMemory   = 1 << 30          // address space while reading a header, in bytes
	workMemory   = 4 << 30          // address space while working on layers and while converting, in bytes
	infoCPU      = 30               // seconds of CPU while reading a header
	shortTimeout = 60 * time.Second // for all but converting
)

// Tool is the qemu-img program.
type Tool struct {
	path string
}

// New makes a Tool of a program's name or path.
func New(path string) Tool { return Tool{path: path} }

// Info is what qemu-img says of an image.
type Info struct {
	VirtualSize int64
}

// Info asks qemu-img about an image of a format. ErrRefersToOthers when it
// finds that the image needs another file.
func (t Tool) Info(ctx context.Context, path string, format v1.DiskFormat) (Info, error) {
	ctx, cancel := context.WithTimeout(ctx, shortTimeout)
	defer cancel()
	out, err := t.run(ctx, job{
		args:   []string{"info", "-U", "--output=json", "-f", qemuName(format), path},
		memory: infoMemory, cpu: infoCPU, read: []string{path},
	})
	if err != nil {
		return Info{}, err
	}
	var v struct {
		Format      string `json:"format"`
		VirtualSize int64  `json:"virtual-size"`
		Backing     string `json:"backing-filename"`
		FullBacking string `json:"full-backing-filename"`
		Specific    struct {
			Data struct {
				DataFile string            `json:"data-file"`
				Extents  []json.RawMessage `json:"extents"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	if err := json.Unmarshal(out, &v); err != nil {
		return Info{}, fmt.Errorf("qemu-img info: %w", err)
	}
	switch {
	case v.Backing != "" || v.FullBacking != "":
		return Info{}, fmt.Errorf("%w: it has the backing file %q", ErrRefersToOthers, v.Backing+v.FullBacking)
	case v.Specific.Data.DataFile != "":
		return Info{}, fmt.Errorf("%w: its data is in %q", ErrRefersToOthers, v.Specific.Data.DataFile)
	case len(v.Specific.Data.Extents) > 1:
		return Info{}, fmt.Errorf("%w: it has %d extents", ErrRefersToOthers, len(v.Specific.Data.Extents))
	case v.VirtualSize <= 0:
		return Info{}, fmt.Errorf("%w: its disk has no size", ErrFormat)
	}
	return Info{VirtualSize: v.VirtualSize}, nil
}

// Convert writes an image to a new file of another format, sparsely. progress
// gets the part done, from 0 to 1.
func (t Tool) Convert(ctx context.Context, src string, format v1.DiskFormat, dst string, to v1.DiskFormat, progress func(float64)) error {
	args := []string{"convert", "-p", "-f", qemuName(format), "-O", qemuName(to)}
	if to == v1.DiskFormatQCOW2 {
		args = append(args, "-o", "compat=1.1")
	}
	_, err := t.run(ctx, job{
		args:   append(args, src, dst),
		memory: workMemory, size: roomFor(dst), read: []string{src}, write: []string{dst}, progress: progress,
	})
	return err
}

// roomFor is how large a file may become: compressed data may be any number of
// times larger than the image that it comes from, and must not take the last
// space from the machines that run there.
func roomFor(path string) uint64 {
	free := files.Free(filepath.Dir(path))
	return uint64(max(1, free-free/10))
}

// CreateOverlay makes a new qcow2 file that lies on base, size bytes long; below
// are the files that base lies on.
func (t Tool) CreateOverlay(ctx context.Context, path, base string, size int64, below ...string) error {
	ctx, cancel := context.WithTimeout(ctx, shortTimeout)
	defer cancel()
	_, err := t.run(ctx, job{
		args: []string{
			"create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, path, strconv.FormatInt(size, 10),
		},
		memory: workMemory, read: append([]string{base}, below...), write: []string{path},
	})
	return err
}

// Rebase makes a qcow2 file lie on onto, which is one of the files below it, and
// keeps its content: what the files in between held is copied into it. Cut off,
// it leaves the content as it was.
func (t Tool) Rebase(ctx context.Context, path, onto string, below []string) error {
	_, err := t.run(ctx, job{
		args:   []string{"rebase", "-q", "-f", "qcow2", "-F", "qcow2", "-b", onto, path},
		memory: workMemory, size: roomFor(path), read: below, write: []string{path},
	})
	return err
}

// Flatten copies what a qcow2 file and the files below it contain to one new
// qcow2 file. progress gets the part done, from 0 to 1.
func (t Tool) Flatten(ctx context.Context, path string, below []string, dst string, progress func(float64)) error {
	_, err := t.run(ctx, job{
		args:   []string{"convert", "-p", "-f", "qcow2", "-O", "qcow2", "-o", "compat=1.1", path, dst},
		memory: workMemory, size: roomFor(dst), read: append([]string{path}, below...), write: []string{dst}, progress: progress,
	})
	return err
}

// Resize grows a qcow2 file that lies on base to size bytes; below are the files
// that base lies on.
func (t Tool) Resize(ctx context.Context, path, base string, size int64, below ...string) error {
	ctx, cancel := context.WithTimeout(ctx, shortTimeout)
	defer cancel()
	_, err := t.run(ctx, job{
		args:   []string{"resize", "-q", "-f", "qcow2", path, strconv.FormatInt(size, 10)},
		memory: workMemory, read: append([]string{base}, below...), write: []string{path},
	})
	return err
}

// qemuName is QEMU's name of a format.
func qemuName(f v1.DiskFormat) string {
	if f == v1.DiskFormatVHD {
		return "vpc"
	}
	return string(f)
}

// job is one run of qemu-img: what it is to do, and what it may use.
type job struct {
	args        []string
	memory, cpu uint64
	size        uint64 // of the largest file that it may write, in bytes
	read, write []string
	progress    func(float64)
}

// run runs qemu-img in a thread of its own, which gives up rights before it
// starts the program and ends with it.
func (t Tool) run(ctx context.Context, j job) ([]byte, error) {
	type result struct {
		out []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := t.confined(ctx, j)
		done <- result{out, err}
	}()
	r := <-done
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return r.out, r.err
}

func (t Tool) confined(ctx context.Context, j job) ([]byte, error) {
	path, err := exec.LookPath(t.path)
	if err != nil {
		return nil, fmt.Errorf("qemu-img is not installed (Debian: qemu-utils, Homebrew: qemu): %w", err)
	}
	for _, w := range j.write { // a file can be named to the kernel only once it exists
		f, err := os.OpenFile(w, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		_ = f.Close()
	}
	if err := confineThread(j.read, j.write); err != nil {
		return nil, fmt.Errorf("qemu-img cannot be confined: %w", err)
	}
	stdout, stderr := &bounded{}, &bounded{}
	cmd := command(ctx, path, j)
	// Where files are slow qemu-img makes many threads, and each would set address
	// space aside for what it allocates.
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "MALLOC_ARENA_MAX=2"}
	cmd.Stderr = stderr
	cmd.WaitDelay = 5 * time.Second
	var pipe io.ReadCloser
	if j.progress == nil {
		cmd.Stdout = stdout
	} else if pipe, err = cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("qemu-img cannot be started: %w", err)
	}
	limit(cmd.Process.Pid, j)
	if pipe != nil {
		readProgress(pipe, j.progress)
	}
	if err := cmd.Wait(); err != nil {
		return nil, failure(j.args[0], err, stderr.String())
	}
	return stdout.Bytes(), nil
}

// failure words what qemu-img says when it fails.
func failure(verb string, err error, stderr string) error {
	text := strings.Join(strings.Fields(strings.TrimSpace(stderr)), " ")
	text = strings.TrimPrefix(text, "qemu-img: ")
	switch { // qemu-img has no exit codes of its own for these
	case strings.Contains(stderr, "No space left on device"):
		return fmt.Errorf("qemu-img %s: %w", verb, syscall.ENOSPC)
	case strings.Contains(stderr, "File too large"):
		return fmt.Errorf("qemu-img %s: the result would be larger than the space that it may take: %w", verb, syscall.ENOSPC)
	}
	if text == "" {
		return fmt.Errorf("qemu-img %s: %w", verb, err)
	}
	return fmt.Errorf("qemu-img %s: %s (%w)", verb, text, err)
}

var percent = regexp.MustCompile(`\((\d{1,3}\.\d{1,2})/100%\)`)

// readProgress reads what qemu-img -p prints, until it ends.
func readProgress(r io.Reader, progress func(float64)) {
	s := bufio.NewScanner(r)
	s.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		if i := bytes.IndexAny(data, "\r\n"); i >= 0 {
			return i + 1, data[:i], nil
		}
		if atEOF && len(data) > 0 {
			return len(data), data, nil
		}
		return 0, nil, nil
	})
	for s.Scan() {
		if m := percent.FindSubmatch(s.Bytes()); m != nil {
			if p, err := strconv.ParseFloat(string(m[1]), 64); err == nil {
				progress(p / 100)
			}
		}
	}
	_, _ = io.Copy(io.Discard, r)
}

// bounded keeps the first maxOutput bytes written to it.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxOutput - b.Len(); room > 0 {
		_, _ = b.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
