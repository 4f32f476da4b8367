package cluster

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authorization "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
)

// kinds are the resources that the socket's users may write, if the cluster lets them.
var kinds = []string{"sandboxes", "goldenimages", "sandboxsnapshots"}

// writers tell whether the socket's users may write to the cluster. The daemon asks for
// them as itself, and its controllers may patch and delete by their own right; so the
// cluster would not refuse what a user wants changed or deleted. What tells both apart
// is the right to create, which the controllers do not need and do not have: whoever is
// to write by the socket has the role sandboxd-socket give it to the daemon.
type writers struct {
	reviews authorization.SelfSubjectAccessReviewInterface
}

func newWriters(config *rest.Config) (*writers, error) {
	client, err := authorization.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &writers{client.SelfSubjectAccessReviews()}, nil
}

// refuse returns why a request that is about the kinds of sandboxd is not passed on; nil
// when it is. The cluster is asked each time, so that a right that is taken back is.
func (w *writers) refuse(ctx context.Context, method, path string) error {
	if method == http.MethodGet || method == http.MethodHead || !below(path, "/apis/"+group) {
		return nil
	}
	namespace, resource, ok := written(path)
	if !ok {
		return notWritten(method, path)
	}
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "create", Group: group, Version: "v1", Resource: resource},
	}}
	answer, err := w.reviews.Create(ctx, review, metav1.CreateOptions{})
	where := "in the cluster"
	if namespace != "" {
		where = "in namespace " + namespace + " of the cluster"
	}
	switch {
	case err == nil && answer.Status.Allowed:
		return nil
	case err == nil:
		return forbidden(fmt.Sprintf("to make, change or delete %s %s is forbidden to users of this host's socket: use kubectl with rights of your own, or have the role sandboxd-socket bound to the daemon's account",
			resource, where))
	case apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err):
		return forbidden(fmt.Sprintf("%s %s is not passed on: the cluster does not tell whether users of this host's socket may write %s %s: %v", method, path, resource, where, err))
	default:
		return apierrors.NewServiceUnavailable(fmt.Sprintf("the Kubernetes API server does not tell whether users of this host's socket may write %s %s: %v: try again once it does", resource, where, err))
	}
}

// written tells what a path of our group writes: an object or a collection of our kinds.
func written(path string) (namespace, resource string, ok bool) {
	segments := strings.Split(strings.TrimPrefix(path, "/apis/"+group+"/"), "/")[1:] // without the version
	if len(segments) > 2 && segments[0] == "namespaces" {
		namespace, segments = segments[1], segments[2:]
	}
	if len(segments) < 1 || len(segments) > 2 || !slices.Contains(kinds, segments[0]) {
		return "", "", false
	}
	return namespace, segments[0], true
}

func notWritten(method, path string) error {
	return forbidden(fmt.Sprintf("%s %s is not passed on to the cluster: by this host's socket, sandboxes, images and snapshots are written as a whole only, and their status by nobody but the controllers", method, path))
}

func forbidden(message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Details: &metav1.StatusDetails{}, Message: message,
	}}
}
