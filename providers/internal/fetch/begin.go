package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

// begin asks for the file, or for the rest of it, and looks at what the answer
// says of itself. The body that it returns begins at d.have.
func (d *download) begin(ctx context.Context) (*http.Response, error) {
	resp, err := d.ask(ctx)
	if err != nil {
		return nil, err
	}
	goesOn, err := d.judge(resp)
	if err == nil && !goesOn { // not what was asked for: whole, then
		_ = resp.Body.Close()
		if err := d.restart(); err != nil {
			return nil, err
		}
		if resp, err = d.ask(ctx); err != nil {
			return nil, err
		}
		goesOn, err = d.judge(resp)
		if err == nil && !goesOn {
			err = providers.Errorf(providers.ErrInvalid, d.Object, "%s answers a request for the whole file with a part of it (%s)", Shown(d.URL), resp.Status)
		}
	}
	if err == nil {
		err = d.admit()
	}
	if err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

func (d *download) ask(ctx context.Context) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.URL, nil)
	if err != nil {
		return nil, providers.Errorf(providers.ErrInvalid, d.Object, "%s is no address that can be asked", Shown(d.URL))
	}
	// A transfer encoding of the server's choice would be another file.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", userAgent)
	if d.have > 0 {
		// Of a file that is complete the last byte is asked for, to hear whether
		// it is still the same.
		from := d.have
		if d.state.Size > 0 && from >= d.state.Size {
			from = d.state.Size - 1
		}
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
		if v := d.state.validator(); v != "" && !d.Immutable {
			req.Header.Set("If-Range", v)
		}
	}
	d.patience.wait()
	resp, err := d.Client.Do(req)
	d.patience.rest()
	if err == nil {
		resp.Body = awaited{resp.Body, d.patience}
	}
	return resp, err
}

// judge reads an answer's head. It is false for one that does not begin where
// the next bytes belong. The state of a new download is written here.
func (d *download) judge(resp *http.Response) (goesOn bool, err error) {
	if e := resp.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return false, providers.Errorf(providers.ErrInvalid, d.Object, "%s sends the file in the encoding %q, which was not asked for", Shown(d.URL), e)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		if d.have > 0 {
			if err := d.restart(); err != nil {
				return false, err
			}
		}
		d.state = state{
			URL: d.URL, ETag: resp.Header.Get("ETag"), LastModified: resp.Header.Get("Last-Modified"),
			Size: max(0, resp.ContentLength),
		}
		if !d.resumable() {
			return true, nil
		}
		d.Step()
		return true, files.Error(d.Object, d.Dir, d.state.write(d.Dir))
	case http.StatusPartialContent:
		return d.fits(resp)
	case http.StatusRequestedRangeNotSatisfiable:
		return d.have == 0, d.refused(resp, d.have == 0)
	}
	return false, d.refused(resp, true)
}

// fits tells whether a part is the one that was asked for, of the same file.
// Some servers pass over If-Range.
func (d *download) fits(resp *http.Response) (bool, error) {
	from, total, ok := parseContentRange(resp.Header.Get("Content-Range"))
	same := d.Immutable || (d.state.ETag == "" || resp.Header.Get("ETag") == d.state.ETag) &&
		(d.state.ETag != "" || resp.Header.Get("Last-Modified") == d.state.LastModified)
	switch {
	case d.have == 0 || !ok || !same || d.state.Size > 0 && total > 0 && total != d.state.Size:
		return false, nil
	case from == d.have:
	case from == d.have-1 && from == d.state.Size-1: // it was complete
		if _, err := io.CopyN(io.Discard, resp.Body, 1); err != nil {
			return false, err
		}
	default:
		return false, nil
	}
	if d.state.Size == 0 {
		d.state.Size = total
	}
	return true, nil
}

// refused words an answer that is not the file.
func (d *download) refused(resp *http.Response, really bool) error {
	if !really {
		return nil
	}
	return StatusError(d.Object, Shown(d.URL), resp.StatusCode)
}

// StatusError says what an answer other than the wanted one means: whether it is
// worth asking again.
func StatusError(object, what string, code int) error {
	status := strconv.Itoa(code) + " " + http.StatusText(code)
	switch {
	case code == http.StatusNotFound, code == http.StatusGone:
		return providers.Errorf(providers.ErrNotFound, object, "%s does not exist (%s): correct the address, or put it there", what, status).
			WithReason(providers.ReasonSourceNotFound)
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests, code >= 500:
		return providers.Errorf(providers.ErrUnavailable, object, "%s cannot be read, the server answers %s: it is tried again", what, status)
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return providers.Errorf(providers.ErrInvalid, object, "%s may not be read, the server answers %s: the daemon has no credentials for it; make it public or name another one", what, status)
	}
	return providers.Errorf(providers.ErrInvalid, object, "%s cannot be read, the server answers %s: correct the address", what, status)
}

// admit refuses what is known to be too large before it comes.
func (d *download) admit() error {
	if d.state.Size > d.MaxBytes {
		return d.tooLarge(d.state.Size)
	}
	need := d.state.Size - d.have
	if free := files.Free(d.Dir); free < need+Margin {
		return d.noRoom(need, free)
	}
	return nil
}

// parseContentRange reads `bytes FROM-TO/TOTAL`; total is 0 when it is `*`.
func parseContentRange(s string) (from, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, size, both := strings.Cut(s, "/")
	first, last, dash := strings.Cut(span, "-")
	from, err1 := strconv.ParseInt(first, 10, 64)
	to, err2 := strconv.ParseInt(last, 10, 64)
	if err := errors.Join(err1, err2); !ok || !both || !dash || err != nil || from < 0 || to < from {
		return 0, 0, false
	}
	if size == "*" {
		return from, 0, true
	}
	total, err := strconv.ParseInt(size, 10, 64)
	// One that ends before the end of the file is cut off, which is seen later.
	return from, total, err == nil && total > to
}
