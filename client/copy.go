package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/guest/archive"
	"sandboxd.dev/sandboxd/guest/wire"
)

// FileInfo describes a file of a guest.
type FileInfo struct {
	// Size in bytes.
	Size int64
	// Mode holds the permission bits.
	Mode os.FileMode
}

// WriteFile writes what r delivers to an absolute path of the guest. A file is
// replaced as a whole or not at all.
func (c *Client) WriteFile(ctx context.Context, key types.NamespacedName, name string, mode os.FileMode, r io.Reader) error {
	q := url.Values{wire.ParamPath: {name}, wire.ParamMode: {strconv.FormatUint(uint64(mode.Perm()), 8)}}
	return c.put(ctx, c.sandboxURL(key, wire.Files, q), r)
}

// ReadFile copies a regular file of the guest to w. How much comes is the guest's
// word: a writer that must not be flooded sets a limit, and its error ends the
// copy.
func (c *Client) ReadFile(ctx context.Context, key types.NamespacedName, name string, w io.Writer) (FileInfo, error) {
	q := url.Values{wire.ParamPath: {name}}
	trailer, n, err := c.get(ctx, c.sandboxURL(key, wire.Files, q), w)
	if err != nil {
		return FileInfo{}, err
	}
	size, err := strconv.ParseInt(trailer.Get(wire.TrailerSize), 10, 64)
	if err != nil || size != n {
		return FileInfo{}, fmt.Errorf("%s: %d bytes of %q came: the transfer was cut off", name, n, trailer.Get(wire.TrailerSize))
	}
	mode, err := strconv.ParseUint(trailer.Get(wire.TrailerMode), 8, 32)
	if err != nil {
		return FileInfo{}, fmt.Errorf("%s: the daemon tells the mode %q", name, trailer.Get(wire.TrailerMode))
	}
	return FileInfo{Size: size, Mode: os.FileMode(mode).Perm()}, nil
}

// WriteDir copies the contents of a directory of this host into a directory of
// the guest, which is made if needed. The guest needs a tar.
func (c *Client) WriteDir(ctx context.Context, key types.NamespacedName, to, from string) error {
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := archive.Pack(ctx, from, w)
		_ = w.CloseWithError(err)
		packed <- err
	}()
	err := c.put(ctx, c.sandboxURL(key, wire.Archive, url.Values{wire.ParamPath: {to}}), r)
	_ = r.CloseWithError(errStopped)
	if packErr := <-packed; packErr != nil && !errors.Is(packErr, errStopped) {
		return packErr // the cause of the other
	}
	return err
}

// ReadDir copies the contents of a directory of the guest into a directory of
// this host, which exists. What comes out of a guest is not trusted: see package
// archive. The guest needs a tar.
func (c *Client) ReadDir(ctx context.Context, key types.NamespacedName, from, to string, limits archive.Limits) error {
	r, w := io.Pipe()
	unpacked := make(chan error, 1)
	go func() {
		err := archive.Unpack(ctx, r, to, limits)
		if err == nil {
			err = skipPadding(r)
		}
		_ = r.CloseWithError(errors.Join(errStopped, err))
		unpacked <- err
	}()
	_, _, err := c.get(ctx, c.sandboxURL(key, wire.Archive, url.Values{wire.ParamPath: {from}}), w)
	_ = w.CloseWithError(err)
	unpackErr := <-unpacked
	if err != nil && !errors.Is(err, errStopped) {
		return err
	}
	return unpackErr
}

// maxPadding bounds what may follow an archive, in bytes. GNU tar fills its last
// record of 10 KiB by default, and 10 MiB is more than anybody's.
const maxPadding = 10 << 20

// skipPadding reads what follows an archive.
func skipPadding(r io.Reader) error {
	n, err := io.Copy(io.Discard, io.LimitReader(r, maxPadding+1))
	if err == nil && n > maxPadding {
		err = fmt.Errorf("the guest goes on sending after the end of the archive: %w", archive.ErrRefused)
	}
	return err
}

// errStopped: the other end of a pipe needs no more.
var errStopped = errors.New("stopped")

// IsDir tells whether a path of the guest is a directory.
func (c *Client) IsDir(ctx context.Context, key types.NamespacedName, name string) (bool, error) {
	if !path.IsAbs(name) {
		return false, fmt.Errorf("path %q is not an absolute path in the guest", name)
	}
	result, err := c.Exec(ctx, key, ExecOptions{Command: []string{"test", "-d", name}})
	if err == nil && result.ExitCode > 1 {
		err = fmt.Errorf("the guest cannot tell whether %s is a directory: %s", name, result.Message)
	}
	return result.ExitCode == 0, err
}

// LogOptions say which part of a console to read.
type LogOptions struct {
	// Follow goes on until the context ends or the sandbox is deleted.
	Follow bool
	// TailLines starts so many lines before the end; nil means everything.
	TailLines *int64
}

// Log copies the serial console of a sandbox to w. It holds what the guest
// printed, terminal escapes included.
func (c *Client) Log(ctx context.Context, key types.NamespacedName, o LogOptions, w io.Writer) error {
	_, _, err := c.get(ctx, c.sandboxURL(key, wire.Log, o.query()), w)
	return err
}

// BuildLog copies what the last build of a golden image has printed to w; followed
// it ends with the build.
func (c *Client) BuildLog(ctx context.Context, image string, o LogOptions, w io.Writer) error {
	_, _, err := c.get(ctx, c.imageURL(image, wire.Log, o.query()), w)
	return err
}

func (o LogOptions) query() url.Values {
	q := url.Values{}
	if o.Follow {
		q.Set(wire.ParamFollow, "true")
	}
	if o.TailLines != nil {
		q.Set(wire.ParamTailLines, strconv.FormatInt(*o.TailLines, 10))
	}
	return q
}

func (c *Client) put(ctx context.Context, address string, body io.Reader) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, address, io.NopCloser(body))
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return transportError(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusNoContent {
		return responseError(response)
	}
	return nil
}

// get copies an answer's body to w and returns its trailer and length.
func (c *Client) get(ctx context.Context, address string, w io.Writer) (http.Header, int64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, 0, err
	}
	request.Header.Set("TE", "trailers")
	response, err := c.http.Do(request)
	if err != nil {
		return nil, 0, transportError(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, 0, responseError(response)
	}
	n, err := io.Copy(w, response.Body)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("the connection to the daemon broke before everything had come: %w", err)
	}
	if err != nil {
		return nil, n, err
	}
	if text := response.Trailer.Get(wire.TrailerError); text != "" {
		return nil, n, errors.New(text)
	}
	return response.Trailer, n, nil
}

// transportError leaves out the address, which means nothing to people.
func transportError(err error) error {
	var unreachable *UnreachableError
	if errors.As(err, &unreachable) {
		return unreachable
	}
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
