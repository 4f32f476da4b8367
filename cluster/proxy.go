package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"strings"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// Proxy passes on what the local socket is asked for and the cluster keeps, with the
// daemon's own rights. Who may use the socket owns this host's machines; that makes
// him nobody in the cluster. So only what is about sandboxes is passed on: Secrets,
// which the daemon must be able to read, are not. And what the controllers may write by
// their own right is written for others only as writers say.
func Proxy(config *rest.Config, local Local, log logr.Logger) (http.Handler, error) {
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, err
	}
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	writers, err := newWriters(config)
	if err != nil {
		return nil, err
	}
	reviews, err := newReviewer(config, local)
	if err != nil {
		return nil, err
	}
	proxy := &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(base)
			for name := range r.Out.Header {
				if identifies(name) {
					r.Out.Header.Del(name)
				}
			}
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if errors.Is(err, context.Canceled) || r.Context().Err() != nil {
				panic(http.ErrAbortHandler) // nobody reads the answer
			}
			log.V(1).Info("A request could not be passed on", "method", r.Method, "path", r.URL.Path, "error", err.Error())
			answer(w, apierrors.NewServiceUnavailable(fmt.Sprintf("the Kubernetes API server %s does not answer: %v: try again once it does", base.Host, err)))
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := passes(r.Method, r.URL)
		if err == nil {
			err = writers.refuse(r.Context(), r.Method, strings.TrimSuffix(r.URL.Path, "/"))
		}
		if err != nil {
			answer(w, err)
			return
		}
		if reviews.answers(r.Method, strings.TrimSuffix(r.URL.Path, "/")) {
			reviews.ServeHTTP(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}), nil
}

// identifies tells the headers that say who asks. The daemon asks, as itself.
func identifies(header string) bool {
	header = http.CanonicalHeaderKey(header)
	return header == "Authorization" || header == "Cookie" || strings.HasPrefix(header, "Impersonate-") || strings.HasPrefix(header, "X-Remote-")
}

// passed is what is passed on besides the kinds of sandboxd, to be read only.
var passed = map[string]bool{
	"/api": true, "/apis": true, "/api/v1": true,
	"/api/v1/namespaces": true, "/api/v1/events": true,
	"/apis/events.k8s.io/v1/events": true,
}

// asked are questions about who asks: what he may do, which the reviewer answers, and
// who he is, which is the daemon.
var asked = map[string]bool{
	"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews": true,
	"/apis/authorization.k8s.io/v1/selfsubjectrulesreviews":  true,
	"/apis/authentication.k8s.io/v1/selfsubjectreviews":      true,
}

// passes tells whether a request is passed on.
func passes(method string, u *url.URL) error {
	p := strings.TrimSuffix(u.EscapedPath(), "/")
	refused := forbidden(fmt.Sprintf("%s %s is not passed on to the cluster: this host's daemon asks there for sandboxes, images, snapshots and their events only: use kubectl, with rights of your own, for all else", method, u.Path))
	// Nothing may be read in two ways.
	if p != u.Path && p+"/" != u.Path || p == "" || path.Clean(p) != p {
		return refused
	}
	if below(p, "/apis/"+group) {
		return nil
	}
	if asked[p] && method == http.MethodPost {
		return nil
	}
	if method != http.MethodGet && method != http.MethodHead {
		return refused
	}
	segments := strings.Split(strings.TrimPrefix(p, "/"), "/")
	switch {
	case passed[p], below(p, "/openapi"), below(p, "/apis/apiextensions.k8s.io"):
		return nil
	case segments[0] == "apis" && len(segments) <= 3: // discovery
		return nil
	case below(p, "/api/v1/namespaces") && len(segments) == 4: // one namespace
		return nil
	case below(p, "/api/v1/namespaces") && segments[4] == "events":
		return nil
	case below(p, "/apis/events.k8s.io/v1/namespaces") && len(segments) >= 6 && segments[5] == "events":
		return nil
	}
	return refused
}

const group = "sandboxd.dev"

func below(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// answer answers with a Status.
func answer(w http.ResponseWriter, err error) {
	status := metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: err.Error()}
	var known apierrors.APIStatus
	if errors.As(err, &known) {
		status = known.Status()
	}
	status.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "Status"})
	write(w, int(status.Code), status)
}

// write answers with an object.
func write(w http.ResponseWriter, code int, object any) {
	raw, _ := json.Marshal(object)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(raw, '\n'))
}
