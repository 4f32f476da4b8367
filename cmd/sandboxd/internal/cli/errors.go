package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	v1 "sandboxd.dev/sandboxd/api/v1"
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
		if list := decodingProblems(s); len(list) > 0 {
			return list[0] + more(len(list)-1, "problem", "problems")
		}
	case metav1.StatusReasonNotFound:
		if d := s.Details; d != nil && d.Group == v1.GroupName && d.Name != "" {
			return fmt.Sprintf("%s: 'sandboxd get %s -A' shows what there is", s.Message, d.Kind)
		}
	}
	if m := untyped.FindStringSubmatch(s.Message); m != nil {
		return fmt.Sprintf("%s %s: %s", m[2], strings.TrimPrefix(m[1], "/"), m[3])
	}
	return s.Message
}

// untyped is how the server says of an applied object that a value is of another type than
// its field: which object, of which kind, and where.
var untyped = regexp.MustCompile(`(?s)^failed to create typed patch object \(([^;]*); [^;]*, Kind=(\w+)\): (?:errors:\s+)?\.?(.*)$`)

// decodingProblems are what a strict server did not understand of an object.
func decodingProblems(s metav1.Status) []string {
	if problems, ok := strings.CutPrefix(s.Message, "strict decoding error: "); ok {
		return strings.Split(problems, ", ")
	}
	return nil
}

// unknownField finds the field that there is none of, and those around it.
var unknownField = regexp.MustCompile(`^unknown field "((?:.*\.)?)([^."]+)"$`)

// explainFields says where the fields are told that an object of a kind has, if an error
// is about one that it has not.
func explainFields(kind schema.GroupVersionKind, err error) error {
	var status apierrors.APIStatus
	if kind.Group != v1.GroupName || !errors.As(err, &status) {
		return err
	}
	problems := decodingProblems(status.Status())
	if len(problems) == 0 {
		return err
	}
	m := unknownField.FindStringSubmatch(problems[0])
	if m == nil {
		return err
	}
	around := indexes.ReplaceAllString(strings.TrimSuffix("."+m[1], "."), "")
	return fmt.Errorf("%w: 'sandboxd explain %s%s' shows the fields there are", err, strings.ToLower(kind.Kind), around)
}

// indexes of lists in the path of a field.
var indexes = regexp.MustCompile(`\[\d+\]`)

func invalidWords(d *metav1.StatusDetails) string {
	first := d.Causes[0]
	// What is not allowed says so in its own words.
	message := strings.TrimPrefix(first.Message, "Forbidden: ")
	message = strings.Replace(message, "should match '"+durationPattern+"'", "should be a duration such as 90s, 30m or 24h", 1)
	// A rule of the whole object says what is wrong, and repeats no value.
	if rule, ok := strings.CutPrefix(message, "Invalid value: "); ok && startsSentence.MatchString(rule) {
		message = rule
	}
	if first.Field != "" && first.Field != "<nil>" && !strings.EqualFold(first.Field, d.Kind) {
		message = strings.ReplaceAll(message, first.Field+" in body ", "it ") // said already
		message = first.Field + ": " + message
	}
	kind, name := d.Kind, d.Name
	if name != "" {
		kind += fmt.Sprintf(" %q", name)
	}
	return kind + " is invalid: " + message + more(len(d.Causes)-1, "problem", "problems")
}

// durationPattern is what the schema says of durations.
const durationPattern = `^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`

// startsSentence tells words from a value that is repeated.
var startsSentence = regexp.MustCompile(`^[a-zA-Z][a-zA-Z.]* `)

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
