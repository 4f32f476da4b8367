package apiserver

import (
	"fmt"
	"mime"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// The media types that the server speaks.
const (
	mediaJSON     = "application/json"
	mediaYAML     = "application/yaml"
	mediaProtobuf = "application/vnd.kubernetes.protobuf" // bodies of core kinds only
)

// form is what objects are rendered as.
type form int

const (
	formObject form = iota
	formTable
	formPartial // PartialObjectMetadata
)

// accept is the outcome of content negotiation.
type accept struct {
	form form
	yaml bool
}

// negotiate picks the first form in an Accept header that the server can
// render. Clients list alternatives in their order of preference.
func negotiate(header string) (accept, error) {
	if header == "" {
		return accept{}, nil
	}
	for _, part := range strings.Split(header, ",") {
		media, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		var a accept
		switch media {
		case mediaJSON, "*/*", "application/*":
		case mediaYAML:
			a.yaml = true
		default:
			continue
		}
		if params["as"] == "" {
			return a, nil
		}
		if params["g"] != metav1.GroupName || params["v"] != "v1" {
			continue
		}
		switch params["as"] {
		case "Table":
			a.form = formTable
			return a, nil
		case "PartialObjectMetadata", "PartialObjectMetadataList":
			a.form = formPartial
			return a, nil
		}
	}
	return accept{}, notAcceptable(header, mediaJSON, mediaYAML)
}

// notAcceptable is the answer to a client that takes none of the supported
// media types.
func notAcceptable(header string, supported ...string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Message: fmt.Sprintf("only the following media types are accepted: %s, and not %q", strings.Join(supported, ", "), header),
	}}
}

// bodyMedia is the media type of a request's body, without parameters.
func bodyMedia(r *http.Request) (string, error) {
	header := r.Header.Get("Content-Type")
	if header == "" {
		return mediaJSON, nil
	}
	media, _, err := mime.ParseMediaType(header)
	if err != nil {
		return "", apierrors.NewBadRequest(fmt.Sprintf("Content-Type %q cannot be parsed", header))
	}
	if media == "application/x-yaml" || media == "text/yaml" {
		return mediaYAML, nil
	}
	return media, nil
}

// unsupportedMedia is the answer to a body that the server cannot read.
func unsupportedMedia(media string, supported ...string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: fmt.Sprintf("the body of the request was in an unknown format (%s) - accepted media types include: %s", media, strings.Join(supported, ", ")),
	}}
}
