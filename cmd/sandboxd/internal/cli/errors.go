package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sandboxd.dev/sandboxd/client"
)

// maxSentence bounds an error message, in bytes: values of manifests are
// repeated in some.
const maxSentence = 1000

// sentence makes one sentence of an error, for people.
func sentence(err error) string {
	text := strings.Join(strings.Fields(words(err)), " ")
	if len(text) > maxSentence {
		text = strings.ToValidUTF8(text[:maxSentence], "") + "…"
	}
	return text
}

// words replaces the part of an error's text that the server or the connection
// said, and keeps what was put before it.
func words(err error) string {
	var unreachable *client.UnreachableError
	var status apierrors.APIStatus
	var address *url.Error
	switch text := err.Error(); {
	case err == context.DeadlineExceeded: //nolint:errorlint // nothing was put before it
		return "the time was up before it was done"
	case errors.As(err, &unreachable):
		return unreachable.Error()
	case errors.As(err, &status):
		inner, ok := status.(error)
		if !ok {
			return text
		}
		return strings.Replace(text, inner.Error(), statusWords(status.Status()), 1)
	case errors.As(err, &address):
		return strings.Replace(text, address.Error(), connectionWords(address.Err), 1)
	default:
		return text
	}
}

func connectionWords(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "the daemon did not answer in time"
	}
	return fmt.Sprintf("the connection to the daemon broke: %v", err)
}

// statusWords words a Status: of several causes the first, and how many more.
func statusWords(s metav1.Status) string {
	switch s.Reason {
	case metav1.StatusReasonInvalid:
		if s.Details != nil && len(s.Details.Causes) > 0 {
			return invalidWords(s.Details)
		}
	case metav1.StatusReasonBadRequest:
		if problems, ok := strings.CutPrefix(s.Message, "strict decoding error: "); ok {
			list := strings.Split(problems, ", ")
			return list[0] + more(len(list)-1, "problem", "problems")
		}
	}
	return s.Message
}

func invalidWords(d *metav1.StatusDetails) string {
	first := d.Causes[0]
	// What is not allowed says so in its own words.
	message := strings.TrimPrefix(first.Message, "Forbidden: ")
	if first.Field != "" && first.Field != "<nil>" {
		message = strings.ReplaceAll(message, first.Field+" in body ", "it ") // said already
		message = first.Field + ": " + message
	}
	kind, name := d.Kind, d.Name
	if name != "" {
		kind += fmt.Sprintf(" %q", name)
	}
	return kind + " is invalid: " + message + more(len(d.Causes)-1, "problem", "problems")
}

// more tells of what was left out.
func more(n int, one, many string) string {
	switch {
	case n <= 0:
		return ""
	case n == 1:
		return fmt.Sprintf(" (and 1 more %s)", one)
	default:
		return fmt.Sprintf(" (and %d more %s)", n, many)
	}
}
