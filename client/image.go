package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/guest/wire"
)

// ExportOptions say which disk of an image to export.
type ExportOptions struct {
	// Revision of the image; empty means the current one.
	Revision string
	// Format of the file: qcow2, vdi or raw; empty means the one that the
	// provider keeps the image in, which needs no conversion.
	Format v1.DiskFormat
	// Begin, if set, is told what is coming before it comes.
	Begin func(Export)
}

// Export is the disk of an image as a file.
type Export struct {
	Format v1.DiskFormat
	// Size of the file in bytes.
	Size int64
	// Digest of the file, as sha256:HEX; empty before the end.
	Digest string
}

// ExportImage copies the disk of a GoldenImage to w. What came has the digest that
// the daemon says it sent; a copy that was cut off is an error.
func (c *Client) ExportImage(ctx context.Context, name string, o ExportOptions, w io.Writer) (Export, error) {
	u := c.base.JoinPath("apis", v1.GroupName, v1.GroupVersion.Version, "goldenimages", url.PathEscape(name), wire.Disk)
	q := url.Values{}
	if o.Revision != "" {
		q.Set(wire.ParamRevision, o.Revision)
	}
	if o.Format != "" {
		q.Set(wire.ParamFormat, string(o.Format))
	}
	u.RawQuery = q.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return Export{}, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return Export{}, transportError(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return Export{}, responseError(response)
	}
	e := Export{Format: v1.DiskFormat(response.Header.Get(wire.HeaderFormat))}
	if e.Size, err = strconv.ParseInt(response.Header.Get(wire.HeaderSize), 10, 64); err != nil {
		return Export{}, fmt.Errorf("image %q: the daemon does not say how large its disk is", name)
	}
	if o.Begin != nil {
		o.Begin(e)
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, sum), response.Body)
	if err != nil {
		return Export{}, fmt.Errorf("image %q: the transfer broke off after %d of %d bytes: %w", name, n, e.Size, err)
	}
	e.Digest = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	if sent := response.Trailer.Get(wire.TrailerDigest); n != e.Size || sent != e.Digest {
		return Export{}, fmt.Errorf("image %q: what came is not what was sent: %d of %d bytes, digest %s, not %s", name, n, e.Size, e.Digest, sent)
	}
	return e, nil
}
