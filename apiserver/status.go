package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sandboxd.dev/sandboxd/brief"
	"sandboxd.dev/sandboxd/store"
)

// reasonCapacity is that of a Status that Kubernetes has no word for: there is no
// space for what was to be written.
const reasonCapacity metav1.StatusReason = "InsufficientCapacity"

// statusOf turns an error into the Status that tells a client of it. Errors
// that are Statuses already pass through.
func statusOf(err error) metav1.Status {
	var api apierrors.APIStatus
	if errors.As(err, &api) {
		status := api.Status()
		status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
		if status.Status == "" {
			status.Status = metav1.StatusFailure
		}
		if status.Code == 0 {
			status.Code = http.StatusInternalServerError
		}
		return status
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return statusOf(apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the body is larger than %d bytes", tooLarge.Limit)))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return statusOf(apierrors.NewTimeoutError("the request was given up before it was done; the change may or may not have been made", 0))
	case errors.Is(err, store.ErrTooLarge):
		return statusOf(apierrors.NewRequestEntityTooLargeError(err.Error()))
	case errors.Is(err, store.ErrNoSpace):
		return metav1.Status{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure,
			Code: http.StatusInsufficientStorage, Reason: reasonCapacity, Message: err.Error(),
		}
	case errors.Is(err, store.ErrClosed):
		return statusOf(apierrors.NewServiceUnavailable("the server is shutting down"))
	}
	return statusOf(apierrors.NewInternalError(err))
}

// Bounds of what a client is told of its mistakes: errors repeat what it sent.
const (
	maxMessage = 16 << 10
	maxCauses  = 100
	maxCause   = 1 << 10
)

// bounded shortens what a Status says.
func bounded(status metav1.Status) metav1.Status {
	status.Message = brief.Text(status.Message, maxMessage)
	if status.Details == nil {
		return status
	}
	details := *status.Details
	details.Causes = nil
	for _, cause := range status.Details.Causes[:min(maxCauses, len(status.Details.Causes))] {
		cause.Message, cause.Field = brief.Text(cause.Message, maxCause), brief.Text(cause.Field, maxCause)
		details.Causes = append(details.Causes, cause)
	}
	details.Name = brief.Text(details.Name, maxCause)
	status.Details = &details
	return status
}

// writeStatus answers with a Status.
func writeStatus(w http.ResponseWriter, status metav1.Status) {
	status = bounded(status)
	raw, err := json.Marshal(status)
	if err != nil { // a Status always marshals
		panic(err)
	}
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(status.Details.RetryAfterSeconds))
	}
	writeBody(w, int(status.Code), mediaJSON, append(raw, '\n'))
}

// storeError names the object in an error of the store.
func storeError(err error, gr schema.GroupResource, name string) error {
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrInvalidKey):
		return apierrors.NewNotFound(gr, name)
	case errors.Is(err, store.ErrExists):
		return apierrors.NewAlreadyExists(gr, name)
	case errors.Is(err, store.ErrConflict):
		return changedError(gr, name)
	}
	return err
}

// changedError is the answer to a write that is based on an old version.
func changedError(gr schema.GroupResource, name string) error {
	return apierrors.NewConflict(gr, name, errors.New("the object has been modified; please apply your changes to the latest version and try again"))
}

// futureError is the answer to a resourceVersion that has not been reached.
func futureError(wanted, current int64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", wanted, current), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type:    metav1.CauseTypeResourceVersionTooLarge,
		Message: "Too large resource version",
	}}
	return err
}

// expiredError is the answer to a resourceVersion that is no longer held.
func expiredError(wanted int64) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d", wanted))
}
