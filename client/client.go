// Package client talks to a sandboxd daemon.
//
//	c, err := client.New(client.Options{})       // finds the daemon's socket
//	c.Create(ctx, &v1.Sandbox{…})                // a controller-runtime client
//	c.Exec(ctx, name, client.ExecOptions{…})     // and the inside of guests
//
// A Client is a controller-runtime client for the kinds of package api/v1 and
// Kubernetes' own core kinds, with watches, plus what is not about objects:
// commands, files and the console of a Sandbox.
package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// Options say where the daemon is. The zero value finds the one of this host.
type Options struct {
	// Socket is the path of the daemon's unix socket; empty means
	// FindSocket's.
	Socket string
	// Config reaches the API in another way, such as a Kubernetes cluster's.
	// Socket is ignored then.
	Config *rest.Config
	// UserAgent names the program to the daemon; empty means its own name.
	UserAgent string
	// Scheme of the typed objects; nil means the kinds of api/v1 and core/v1.
	Scheme *runtime.Scheme
}

// Client talks to one daemon. It may be used concurrently.
type Client struct {
	crclient.WithWatch
	config *rest.Config
	http   *http.Client
	base   *url.URL
}

// New makes a Client. It connects when it is first used.
func New(o Options) (*Client, error) {
	config := o.Config
	if config == nil {
		if o.Socket == "" {
			o.Socket = FindSocket()
		}
		config = SocketConfig(o.Socket)
	}
	config = rest.CopyConfig(config)
	if o.UserAgent != "" {
		config.UserAgent = o.UserAgent
	}
	if config.UserAgent == "" {
		config.UserAgent = filepath.Base(os.Args[0])
	}
	scheme := o.Scheme
	if scheme == nil {
		scheme = runtime.NewScheme()
		if err := errors.Join(v1.AddToScheme(scheme), corev1.AddToScheme(scheme)); err != nil {
			return nil, err
		}
	}
	// Guest streams are upgraded connections, which HTTP/2 does not have.
	config.NextProtos = []string{"http/1.1"}
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	inner, err := crclient.NewWithWatch(config, crclient.Options{HTTPClient: httpClient, Scheme: scheme, Mapper: kinds()})
	if err != nil {
		return nil, err
	}
	return &Client{WithWatch: inner, config: config, http: httpClient, base: base}, nil
}

// kinds maps the kinds that a daemon serves to their resources, so that nothing
// has to be asked before the first request.
func kinds() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	add := func(kind, plural, singular string, scope meta.RESTScope) {
		m.AddSpecific(v1.GroupVersion.WithKind(kind), v1.GroupVersion.WithResource(plural), v1.GroupVersion.WithResource(singular), scope)
	}
	add("Sandbox", "sandboxes", "sandbox", meta.RESTScopeNamespace)
	add("GoldenImage", "goldenimages", "goldenimage", meta.RESTScopeRoot)
	for kind, scope := range map[string]meta.RESTScope{
		"Namespace": meta.RESTScopeRoot, "Event": meta.RESTScopeNamespace, "Secret": meta.RESTScopeNamespace,
	} {
		m.Add(corev1.SchemeGroupVersion.WithKind(kind), scope)
	}
	return m
}

// Config is a copy of the configuration that reaches the daemon, for other
// clients of the Kubernetes API.
func (c *Client) Config() *rest.Config { return rest.CopyConfig(c.config) }

// SocketConfig reaches a daemon through its unix socket. It has no rate limit:
// the daemon is on this host and looks after itself.
func SocketConfig(path string) *rest.Config {
	return &rest.Config{
		Host:               "http://sandboxd",
		QPS:                -1,
		DisableCompression: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
			if err != nil {
				return nil, &UnreachableError{Socket: path, Err: err}
			}
			return conn, nil
		},
	}
}

// FindSocket is where the daemon of this host is expected: where the variable
// SANDBOXD_SOCKET says, else the system service's socket, else, if that does
// not exist and theirs does, the one of the user's own daemon.
func FindSocket() string {
	if s := os.Getenv("SANDBOXD_SOCKET"); s != "" {
		return s
	}
	if os.Geteuid() == 0 {
		return SystemSocket
	}
	user := UserSocket()
	if _, err := os.Stat(SystemSocket); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(user); err == nil {
			return user
		}
	}
	return SystemSocket
}

// UserSocket is where a daemon listens that runs as this user.
func UserSocket() string {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(dir) {
		dir = userDir()
	}
	return filepath.Join(dir, "sandboxd", "sandboxd.sock")
}

// UnreachableError: no daemon answers on its socket, or may not be asked.
type UnreachableError struct {
	Socket string
	Err    error
}

// Error says what to do about it.
func (e *UnreachableError) Error() string {
	what := "cannot reach the sandboxd daemon at " + e.Socket
	switch {
	case errors.Is(e.Err, fs.ErrPermission):
		return what + ": permission denied: " + permissionAdvice(e.Socket)
	case errors.Is(e.Err, fs.ErrNotExist):
		return what + ": there is no such socket: start it with \"sandboxd serve\", or name the right socket with --socket or SANDBOXD_SOCKET"
	case errors.Is(e.Err, syscall.ECONNREFUSED):
		return what + ": nobody listens there: start it with \"sandboxd serve\""
	default:
		return fmt.Sprintf("%s: %v: start it with \"sandboxd serve\"", what, cause(e.Err))
	}
}

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// cause leaves out what a network error repeats.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	return err
}

// sandboxURL is the address of something below a sandbox.
func (c *Client) sandboxURL(key types.NamespacedName, endpoint string, query url.Values) string {
	u := c.base.JoinPath("apis", v1.GroupName, v1.GroupVersion.Version, "namespaces",
		url.PathEscape(key.Namespace), "sandboxes", url.PathEscape(key.Name), endpoint)
	u.RawQuery = query.Encode()
	return u.String()
}

func (c *Client) imageURL(name, endpoint string, query url.Values) string {
	u := c.base.JoinPath("apis", v1.GroupName, v1.GroupVersion.Version, "goldenimages", url.PathEscape(name), endpoint)
	u.RawQuery = query.Encode()
	return u.String()
}

// CloseIdleConnections closes connections that are kept for later requests.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }
