package providers

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// The kinds of provider errors, to be tested with errors.Is. Every error that
// a provider returns is of exactly one kind, or a context's error, or wraps the
// error of a reader or writer that the caller gave.
var (
	// ErrNotFound: the thing does not exist. It is never used for "could not
	// find out".
	ErrNotFound = errors.New("not found")
	// ErrAlreadyExists: something else has that name or identity.
	ErrAlreadyExists = errors.New("already exists")
	// ErrBusy: not in this state or while others use it; try again later.
	ErrBusy = errors.New("busy")
	// ErrUnavailable: the hypervisor or the guest does not answer; try again
	// later. Nothing is known about the outcome.
	ErrUnavailable = errors.New("unavailable")
	// ErrDown: the hypervisor as a whole does not answer, so nothing can be known of
	// anything on it. It is an ErrUnavailable. A provider that has said so sends
	// EventResync once the hypervisor answers again, if it is listened to.
	ErrDown = fmt.Errorf("the hypervisor does not answer: %w", ErrUnavailable)
	// ErrInvalid: what was asked for is wrong and stays wrong. Terminal.
	ErrInvalid = errors.New("invalid")
	// ErrUnsupported: this provider or host cannot do it. Terminal.
	ErrUnsupported = errors.New("unsupported")
	// ErrCapacity: not enough memory, disk, ports or addresses; try again
	// when there are more.
	ErrCapacity = errors.New("insufficient capacity")
)

// kinds in the order in which KindOf tests them.
var kinds = []error{
	ErrNotFound, ErrAlreadyExists, ErrBusy, ErrUnavailable,
	ErrInvalid, ErrUnsupported, ErrCapacity,
}

// Error is a provider error: what it happened to, its kind and its cause.
type Error struct {
	// Kind is one of the kinds above.
	Kind error
	// Object that the error is about, such as `image "debian"`.
	Object string
	// Reason is a CamelCase word for a condition; empty means the kind's own.
	Reason string
	// Err says what went wrong; nil when the kind says it all.
	Err error
}

// Error is one sentence on one line, the object first. Names and causes may come
// from manifests and guests, so what steers a terminal is escaped: an error can
// neither forge a second line of a log nor be read as another text.
func (e *Error) Error() string {
	if e.Err == nil {
		return printable(fmt.Sprintf("%s: %v", e.Object, e.Kind))
	}
	return printable(fmt.Sprintf("%s: %v", e.Object, e.Err))
}

func printable(s string) string {
	if !strings.ContainsFunc(s, steers) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if steers(r) {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// steers tells whether a terminal does something else with a character than show it:
// controls, line ends of Unicode, and what turns the direction of writing.
func steers(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp)
}

// Unwrap makes errors.Is and errors.As see the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// Errorf makes an Error of a kind about an object. The format may use %w.
func Errorf(kind error, object, format string, args ...any) *Error {
	return &Error{Kind: kind, Object: object, Err: fmt.Errorf(format, args...)}
}

// WithReason sets the condition reason and returns the error.
func (e *Error) WithReason(reason string) *Error {
	e.Reason = reason
	return e
}

// KindOf returns the kind of an error, or nil when it has none.
func KindOf(err error) error {
	for _, k := range kinds {
		if errors.Is(err, k) {
			return k
		}
	}
	return nil
}

// IsTerminal tells whether trying again is pointless until somebody changes
// the request.
func IsTerminal(err error) bool {
	k := KindOf(err)
	return k == ErrInvalid || k == ErrUnsupported
}

// ReasonOf turns an error into the reason of a condition: its own if it has
// one, else its kind's.
func ReasonOf(err error) string {
	var e *Error
	if errors.As(err, &e) && e.Reason != "" {
		return e.Reason
	}
	switch KindOf(err) {
	case ErrNotFound:
		return v1.ReasonNotFound
	case ErrAlreadyExists:
		return v1.ReasonAlreadyExists
	case ErrBusy:
		return v1.ReasonBusy
	case ErrUnavailable:
		return v1.ReasonUnavailable
	case ErrInvalid:
		return v1.ReasonInvalid
	case ErrUnsupported:
		return v1.ReasonUnsupported
	case ErrCapacity:
		return v1.ReasonCapacity
	default:
		return v1.ReasonError
	}
}
