package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"sandboxd.dev/sandboxd/providers"
)

const (
	userAgent    = "sandboxd"
	maxRedirects = 10
	dialTimeout  = 30 * time.Second
)

var errRedirect = errors.New("redirected")

// errLinkLocal: an address is not one that images are fetched from.
var errLinkLocal = errors.New("its address is one of the link itself (169.254.0.0/16, fe80::/10 and their like), where clouds tell machines their secrets")

// metadata are addresses that clouds use in the same way.
var metadata = []netip.Addr{netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200")}

// outward refuses connections to where the host is told its own secrets. Whoever
// writes a manifest, answers with a redirect, or names the place where a registry
// gives out tokens, would have the daemon read them. What is dialled is looked at,
// so it does not matter by which name it came.
func outward(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := at.Addr().Unmap().WithZone("")
	if ip.IsLinkLocalUnicast() || ip.IsMulticast() || slices.Contains(metadata, ip) {
		return errLinkLocal
	}
	return nil
}

// NewClient makes a client that follows a few redirects, none from https to
// http nor from elsewhere to the host itself, connects to no address of the link,
// and uses the proxy of the environment, as Go programs do.
func NewClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: dialTimeout, Control: outward}).DialContext,
			TLSHandshakeTimeout:    dialTimeout,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true,
			DisableKeepAlives:      true, // it is used once: nothing is to stay open behind it
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			switch {
			case len(via) > maxRedirects:
				return redirectError("more than 10 times")
			case req.URL.Scheme != "https" && req.URL.Scheme != "http":
				return redirectError("to something that is neither http nor https")
			case via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https":
				return redirectError("from https to http")
			case isLoopback(req.URL.Hostname()) && !isLoopback(via[0].URL.Hostname()):
				return redirectError("to this host itself")
			}
			return nil
		},
	}
}

// isLoopback tells whether a host's name is one of this host's own.
func isLoopback(host string) bool {
	if host = strings.ToLower(strings.TrimSuffix(host, ".")); host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && (ip.Unmap().IsLoopback() || ip.Unmap().IsUnspecified())
}

type redirectError string

func (e redirectError) Error() string { return "it is redirected " + string(e) }

func (redirectError) Is(target error) bool { return target == errRedirect }

// TransportError gives what prevented an answer a kind. The address in Go's own
// words may hold a password or a token, and is left out.
func TransportError(object, what string, err error) error {
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	var certificate *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	switch {
	case errors.Is(err, errLinkLocal):
		return providers.Errorf(providers.ErrInvalid, object, "%s is not read: %w", what, errLinkLocal)
	case errors.Is(err, errRedirect):
		return providers.Errorf(providers.ErrInvalid, object, "%s cannot be read: %w", what, err)
	case errors.As(err, &certificate), errors.As(err, &authority):
		return providers.Errorf(providers.ErrInvalid, object, "%s cannot be trusted: %w", what, err)
	}
	return providers.Errorf(providers.ErrUnavailable, object, "%s cannot be read: %w: it is tried again", what, err)
}

// Shown is an address as messages show it: without user, password and query,
// which may be secrets.
func Shown(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "its address"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// Small reads a small file whole, at most limit bytes of it. Its errors are
// those of Get.
func Small(ctx context.Context, r Request) ([]byte, error) {
	if r.Client == nil {
		r.Client = NewClient()
	}
	if r.Stall == 0 {
		r.Stall = DefaultStall
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.Stall, errStalled)
	defer cancel()
	d := &download{Request: r}
	resp, err := d.ask(ctx)
	if err != nil {
		return nil, d.broken(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, StatusError(r.Object, Shown(r.URL), resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, r.MaxBytes+1))
	if err != nil {
		return nil, d.broken(ctx, err)
	}
	if int64(len(b)) > r.MaxBytes {
		return nil, providers.Errorf(providers.ErrInvalid, r.Object, "%s has more than %d bytes: it is not what it is taken for", Shown(r.URL), r.MaxBytes)
	}
	return b, nil
}

// Probe asks for a file and hangs up: whether it is there, and not too large.
func Probe(ctx context.Context, r Request) error {
	if r.Client == nil {
		r.Client = NewClient()
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.Stall, errStalled)
	defer cancel()
	d := &download{Request: r}
	resp, err := d.ask(ctx)
	if err != nil {
		return d.broken(ctx, err)
	}
	_ = resp.Body.Close()
	switch {
	case resp.StatusCode != http.StatusOK:
		return StatusError(r.Object, Shown(r.URL), resp.StatusCode)
	case resp.ContentLength > r.MaxBytes:
		return d.tooLarge(resp.ContentLength)
	}
	return nil
}
