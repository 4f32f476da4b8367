package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sandboxd.dev/sandboxd/providers"
)

// Reasons of a Status that Kubernetes has no word for.
const (
	reasonUnsupported metav1.StatusReason = "Unsupported"
	reasonCapacity    metav1.StatusReason = "InsufficientCapacity"
)

// badRequest is an error in the request itself.
type badRequest struct{ text string }

func (e badRequest) Error() string { return e.text }

func badRequestf(format string, args ...any) error { return badRequest{fmt.Sprintf(format, args...)} }

// statusOf makes the Status of an error about an object:
//
//	NotFound 404 · AlreadyExists, Busy 409 · Unavailable 503 · Invalid 422
//	Unsupported 501 · Capacity 507 · a wrong request 400 · time up 504
func statusOf(object string, err error) metav1.Status {
	code, reason := http.StatusInternalServerError, metav1.StatusReasonInternalError
	var bad badRequest
	switch kind := providers.KindOf(err); {
	case errors.As(err, &bad):
		code, reason = http.StatusBadRequest, metav1.StatusReasonBadRequest
	case kind == providers.ErrNotFound:
		code, reason = http.StatusNotFound, metav1.StatusReasonNotFound
	case kind == providers.ErrAlreadyExists:
		code, reason = http.StatusConflict, metav1.StatusReasonAlreadyExists
	case kind == providers.ErrBusy:
		code, reason = http.StatusConflict, metav1.StatusReasonConflict
	case kind == providers.ErrUnavailable:
		code, reason = http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable
	case kind == providers.ErrInvalid:
		code, reason = http.StatusUnprocessableEntity, metav1.StatusReasonInvalid
	case kind == providers.ErrUnsupported:
		code, reason = http.StatusNotImplemented, reasonUnsupported
	case kind == providers.ErrCapacity:
		code, reason = http.StatusInsufficientStorage, reasonCapacity
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		code, reason = http.StatusGatewayTimeout, metav1.StatusReasonTimeout
	}
	return metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reason,
		Message: message(object, err),
	}
}

// message words an error for somebody who knows sandboxes, not machines: the
// provider's name for the object is replaced.
func message(object string, err error) string {
	var e *providers.Error
	if !errors.As(err, &e) || object == "" {
		return err.Error()
	}
	if e.Err == nil {
		return fmt.Sprintf("%s: %v", object, e.Kind)
	}
	return fmt.Sprintf("%s: %v", object, e.Err)
}

// writeStatus answers with a Status.
func writeStatus(w http.ResponseWriter, s metav1.Status) {
	raw, err := json.Marshal(s)
	if err != nil { // a Status always marshals
		panic(err)
	}
	raw = append(raw, '\n')
	h := w.Header()
	h.Del("Trailer")
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(raw)))
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(int(s.Code))
	_, _ = w.Write(raw) // whoever asked is gone when this fails
}
