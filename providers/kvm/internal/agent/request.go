package agent

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"sandboxd.dev/sandboxd/providers"
)

// Errors of starting a command.
var (
	// ErrNoProgram: the guest has no such program.
	ErrNoProgram = errors.New("no such program")
	// ErrBadRequest: what was asked for is wrong.
	ErrBadRequest = errors.New("bad request")
)

var (
	envPattern  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)
	userPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,63}$`)
)

// check refuses what cannot be passed to a guest.
func check(req providers.ExecRequest) error {
	if len(req.Command) == 0 || req.Command[0] == "" {
		return fmt.Errorf("%w: the command is empty", ErrBadRequest)
	}
	size := 0
	for _, s := range append(append([]string{req.Dir}, req.Command...), req.Env...) {
		if strings.ContainsRune(s, 0) {
			return fmt.Errorf("%w: an argument contains a NUL byte", ErrBadRequest)
		}
		size += len(s) + 1
	}
	for _, e := range req.Env {
		if !envPattern.MatchString(e) {
			return fmt.Errorf("%w: %.50q is not of the form NAME=value", ErrBadRequest, e)
		}
	}
	switch {
	case size > maxArguments:
		return fmt.Errorf("%w: command and environment are longer than %d KiB", ErrBadRequest, maxArguments>>10)
	case req.User != "" && !userPattern.MatchString(req.User):
		return fmt.Errorf("%w: %q is not a user name", ErrBadRequest, req.User)
	case req.Dir != "" && !path.IsAbs(req.Dir):
		return fmt.Errorf("%w: the directory %q is not absolute", ErrBadRequest, req.Dir)
	case req.MaxOutput < 0 || req.Timeout < 0:
		return fmt.Errorf("%w: a limit is negative", ErrBadRequest)
	}
	return nil
}

// encode makes arguments fit for JSON, which carries text only: if one is not
// valid UTF-8, all are written for printf's %b.
func encode(args []string) (encoded []string, coded string) {
	if !slices.ContainsFunc(args, func(a string) bool { return !utf8.ValidString(a) }) {
		return args, "no"
	}
	for _, a := range args {
		var b strings.Builder
		for _, c := range []byte(a) {
			fmt.Fprintf(&b, "\\0%03o", c)
		}
		encoded = append(encoded, b.String())
	}
	return encoded, "yes"
}
