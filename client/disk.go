package client

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/disk/change"
	"sandboxd.dev/sandboxd/guest/archive"
	"sandboxd.dev/sandboxd/guest/wire"
)

// DiskDiffOptions say which states of a disk to compare.
type DiskDiffOptions struct {
	// From is a snapshot; empty or "golden" means what the sandbox began as.
	From string
	// To is a snapshot; empty means the disk as it is now, for which the sandbox
	// must be off or suspended.
	To string
	// Touched tells of files of which only the time differs, too.
	Touched bool
}

func (o DiskDiffOptions) query() url.Values {
	q := url.Values{}
	for name, value := range map[string]string{wire.ParamFrom: o.From, wire.ParamTo: o.To} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if o.Touched {
		q.Set(wire.ParamTouched, "true")
	}
	return q
}

// DiskDiff tells emit how two states of a sandbox's disk differ. It is read on the
// host, without the guest's help. An error of emit ends it.
func (c *Client) DiskDiff(ctx context.Context, key types.NamespacedName, o DiskDiffOptions, emit func(change.Line) error) error {
	lines := &lineWriter{emit: emit}
	if _, _, err := c.get(ctx, c.sandboxURL(key, wire.DiskDiff, o.query()), lines); err != nil {
		return err
	}
	if lines.rest.Len() > 0 {
		return errors.New("the daemon's answer ends in the middle of a line")
	}
	return nil
}

// DiskContent writes a unified diff of a text file in two states of a disk to w. What
// a terminal could take for a command is escaped.
func (c *Client) DiskContent(ctx context.Context, key types.NamespacedName, o DiskDiffOptions, name string, w io.Writer) error {
	q := o.query()
	q.Set(wire.ParamContent, name)
	_, _, err := c.get(ctx, c.sandboxURL(key, wire.DiskDiff, q), w)
	return err
}

// maxLine bounds a line of a comparison, in bytes.
const maxLine = 1 << 20

// lineWriter reads the lines that are written to it.
type lineWriter struct {
	emit func(change.Line) error
	rest bytes.Buffer
}

func (l *lineWriter) Write(p []byte) (int, error) {
	l.rest.Write(p)
	for {
		end := bytes.IndexByte(l.rest.Bytes(), '\n')
		if end < 0 {
			if l.rest.Len() > maxLine {
				return 0, errors.New("the daemon's answer has a line that is too long")
			}
			return len(p), nil
		}
		var line change.Line
		if err := json.Unmarshal(l.rest.Next(end+1), &line); err != nil {
			return 0, fmt.Errorf("the daemon's answer cannot be read: %w", err)
		}
		if err := l.emit(line); err != nil {
			return 0, err
		}
	}
}

// ReadDisk copies a file or a directory out of a sandbox's disk, or of a snapshot of
// it, without the guest's help. file gets a regular file; dir the tar stream of what
// is in a directory, to be unpacked with UnpackDir.
func (c *Client) ReadDisk(ctx context.Context, key types.NamespacedName, name, snapshot string, file func(FileInfo, io.Reader) error, dir func(io.Reader) error) error {
	q := url.Values{wire.ParamPath: {name}}
	if snapshot != "" {
		q.Set(wire.ParamSnapshot, snapshot)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.sandboxURL(key, wire.DiskArchive, q), nil)
	if err != nil {
		return err
	}
	request.Header.Set("TE", "trailers")
	response, err := c.http.Do(request)
	if err != nil {
		return transportError(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return responseError(response)
	}
	body := bufio.NewReader(response.Body)
	if response.Header.Get(wire.HeaderDir) == "true" {
		err = dir(body)
	} else {
		err = oneFile(body, file)
	}
	if err == nil {
		err = skipPadding(body)
	}
	if text := response.Trailer.Get(wire.TrailerError); text != "" {
		return errors.New(text) // the cause of the other
	}
	return err
}

// UnpackDir unpacks a directory that ReadDisk reads.
func UnpackDir(ctx context.Context, r io.Reader, to string) error {
	return archive.Unpack(ctx, r, to, archive.DefaultLimits)
}

func oneFile(r io.Reader, file func(FileInfo, io.Reader) error) error {
	t := tar.NewReader(r)
	h, err := t.Next()
	if err != nil {
		return fmt.Errorf("the daemon's answer cannot be read: %w", err)
	}
	if h.Typeflag != tar.TypeReg {
		return fmt.Errorf("the daemon sent something else than a file: %w", archive.ErrRefused)
	}
	if err := file(FileInfo{Size: h.Size, Mode: os.FileMode(h.Mode).Perm()}, t); err != nil { //nolint:gosec // masked
		return err
	}
	if _, err := t.Next(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("the daemon sent more than one file: %w", archive.ErrRefused)
	}
	return nil
}
