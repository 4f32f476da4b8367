// Package guestcall judges calls into guests, by whatever way they go: whether
// one can be made at all, and whose fault it was if it failed.
//
//	request ──check──▶ a way into the guest ──error of this package──▶ Kind ──▶ caller
//
// The ways themselves know nothing of the kinds of package providers: they say
// what happened by the errors of this package, and Kind is called once, where the
// machine's name is known.
package guestcall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"sandboxd.dev/sandboxd/providers"
)

// Errors that say what happened.
var (
	// ErrRefused: the guest answered, and refused.
	ErrRefused = errors.New("the guest refused")
	// ErrBadRequest: what was asked for is wrong.
	ErrBadRequest = errors.New("bad request")
	// ErrNoProgram: the guest has no such program.
	ErrNoProgram = errors.New("no such program")
	// ErrNoFile: the guest has no such file or directory.
	ErrNoFile = errors.New("no such file or directory")
	// ErrGuestLacks: the guest cannot do it.
	ErrGuestLacks = errors.New("the guest lacks support")
	// ErrCaller: a reader or writer that the caller gave failed.
	ErrCaller = errors.New("the caller's stream failed")
	// ErrTimeUp, as the cause of a context's end: the command has run for as long
	// as its caller allows.
	ErrTimeUp = errors.New("the command's time is up")
)

// KilledCode is the exit code of a command that was killed.
const KilledCode = 128 + 9

// Kind gives an error a kind, and the name of what it happened to. Errors that
// have a kind and those of the caller's own readers and writers are passed on as
// they are; when the caller's context has ended, its error is.
func Kind(ctx context.Context, object string, err error) error {
	kind := providers.ErrUnavailable
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)):
		return ctx.Err()
	case errors.Is(err, ErrCaller), providers.KindOf(err) != nil:
		return err
	case errors.Is(err, ErrNoProgram), errors.Is(err, ErrNoFile):
		kind = providers.ErrNotFound
	case errors.Is(err, ErrBadRequest):
		kind = providers.ErrInvalid
	case errors.Is(err, ErrGuestLacks):
		kind = providers.ErrUnsupported
	}
	return providers.Errorf(kind, object, "%w", err)
}

// OutputError says of an error that it is that of the caller's writer.
func OutputError(err error) error { return fmt.Errorf("%w: output: %w", ErrCaller, err) }

// InputError says of an error that it is that of the caller's reader.
func InputError(err error) error { return fmt.Errorf("%w: input: %w", ErrCaller, err) }

// Input reads what a caller gives. It ends with the context, and says of the
// caller's errors that they are his.
func Input(ctx context.Context, r io.Reader) io.Reader { return input{ctx, r} }

type input struct {
	ctx context.Context
	r   io.Reader
}

func (i input) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := i.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = InputError(err)
	}
	return n, err
}

// Printable makes guest text fit for a message: one line of at most 200 printable
// characters.
func Printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s[:min(len(s), 400)])
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 200 {
		s = string(r[:200]) + "..."
	}
	return s
}
