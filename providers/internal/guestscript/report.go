package guestscript

import (
	"fmt"
	"strconv"
	"strings"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
)

// ExitCode reads the report of a command's end: "done CODE", or "refused WORD"
// when it was not started.
func ExitCode(report string) (int, error) {
	switch word, rest, _ := strings.Cut(report, " "); word {
	case "done":
		if code, err := strconv.ParseUint(rest, 10, 8); err == nil {
			return int(code), nil
		}
	case "refused":
		return 0, Refusal(rest)
	}
	return 0, notUnderstood("the command", report)
}

// Refusal words why a command was not started.
func Refusal(word string) error {
	switch word {
	case "missing":
		return fmt.Errorf("%w in the guest", guestcall.ErrNoProgram)
	case "denied":
		return fmt.Errorf("%w: the program is not executable", guestcall.ErrBadRequest)
	case "directory":
		return fmt.Errorf("%w: the guest has no such directory to run in", guestcall.ErrBadRequest)
	case "user":
		return fmt.Errorf("%w: the guest has no such user", guestcall.ErrBadRequest)
	case "su":
		return fmt.Errorf("%w: only root may run commands as others, and the image's guest.user is not root", guestcall.ErrBadRequest)
	case "mkfifo":
		return fmt.Errorf("%w: it has no program mkfifo, which streams need: install coreutils or busybox in it", guestcall.ErrGuestLacks)
	case "script":
		return fmt.Errorf("%w: it has neither script nor python3, one of which makes terminals: install util-linux (on Debian, bsdutils) in it, or leave out the terminal", guestcall.ErrGuestLacks)
	case "temp":
		return fmt.Errorf("%w: it cannot write to its /tmp; is the disk full?", guestcall.ErrRefused)
	default:
		return notUnderstood("the command", word)
	}
}

// PutOutcome reads what Put has printed of a path.
func PutOutcome(word, path string) error {
	switch word {
	case "ok":
		return nil
	case "missing":
		return fmt.Errorf("%w: the directory of %q does not exist in the guest", guestcall.ErrNoFile, path)
	case "directory":
		return fmt.Errorf("%w: %q is a directory", guestcall.ErrBadRequest, path)
	case "denied":
		return fmt.Errorf("%w: %q cannot be written in the guest", guestcall.ErrBadRequest, path)
	case "full":
		return fmt.Errorf("%w: %q cannot be written to its end; is the guest's disk full?", guestcall.ErrRefused, path)
	default:
		return notUnderstood(strconv.Quote(path), word)
	}
}

// GetOutcome reads the line that Get has printed of a path.
func GetOutcome(line, path string) (providers.FileInfo, error) {
	switch line {
	case "missing":
		return providers.FileInfo{}, fmt.Errorf("%w: %q does not exist in the guest", guestcall.ErrNoFile, path)
	case "irregular":
		return providers.FileInfo{}, fmt.Errorf("%w: %q is not a regular file", guestcall.ErrBadRequest, path)
	case "denied":
		return providers.FileInfo{}, fmt.Errorf("%w: %q cannot be read in the guest", guestcall.ErrBadRequest, path)
	}
	if f := strings.Fields(line); len(f) == 3 && f[0] == "ok" {
		size, sizeErr := strconv.ParseUint(f[1], 10, 62)
		mode, modeErr := strconv.ParseUint(f[2], 8, 16)
		if sizeErr == nil && modeErr == nil {
			return providers.FileInfo{Size: int64(size), Mode: uint32(mode) & 0o777}, nil
		}
	}
	return providers.FileInfo{}, notUnderstood(strconv.Quote(path), line)
}

// KeysInput is what Keys reads.
func KeysInput(keys []string) string {
	var b strings.Builder
	for _, k := range keys {
		b.WriteString(k + "\n")
	}
	return b.String()
}

// KeysOutcome reads what Keys has printed of a user.
func KeysOutcome(word, user string) error {
	switch word {
	case "ok":
		return nil
	case "user":
		return fmt.Errorf("%w: the guest has no user %q", guestcall.ErrBadRequest, user)
	case "home":
		return fmt.Errorf("%w: user %q has no home directory in the guest that can be written", guestcall.ErrRefused, user)
	default:
		return notUnderstood("ssh keys", word)
	}
}

func notUnderstood(what, said string) error {
	return fmt.Errorf("the guest's report on %s is not understood: %q", what, guestcall.Printable(said))
}
