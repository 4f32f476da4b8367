package providers

import (
	"context"
	"errors"
	"io"
	"math"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// ExecRequest is a command to run in a guest.
type ExecRequest struct {
	// Command and its arguments. No shell is involved.
	Command []string
	// User to run as; empty means the agent's own.
	User string
	// Dir to run in; empty means the user's choice.
	Dir string
	// Env adds variables, as NAME=value.
	Env []string
	// Stdin is read while the command runs, no faster than the command takes it,
	// and in constant memory and space of the guest; its end is the command's end
	// of input. nil means empty. An error of it other than io.EOF ends the command
	// and is returned. What the command leaves unread is not read, and its end
	// does not wait for that of the input: a Read that blocks then, even after
	// Exec has returned, is the caller's to end.
	Stdin io.Reader
	// Stdout and Stderr get the output as it comes, and nothing once Exec has
	// returned; nil discards. They may be one and the same. A Write that blocks
	// is the caller's to end.
	Stdout, Stderr io.Writer
	// TTY gives the command a terminal of its own: Stdin is typed there, its end
	// included, Stdout gets what is shown, and Stderr gets nothing. ErrUnsupported,
	// with what to install, when the guest can make none.
	TTY bool
	// Resize tells the sizes that the terminal is to have; nil leaves it the
	// guest's choice. One that is there when Exec is called is in force before the
	// command starts. It need not be closed, nothing follows when it is, and it is not
	// read without TTY.
	Resize <-chan TerminalSize
	// Timeout after which the command is killed, counted from its start; 0
	// means none but the context's.
	Timeout time.Duration
	// MaxOutput bounds each of stdout and stderr, in bytes; 0 means
	// DefaultMaxOutput. What exceeds it is dropped and reported. Beyond
	// DefaultMaxOutput, a command whose output nobody takes waits, so that the
	// guest keeps little of it.
	MaxOutput int64
}

// TerminalSize is that of a terminal, in characters.
type TerminalSize struct {
	Width, Height uint16
}

// NoMaxOutput is a MaxOutput that bounds nothing.
const NoMaxOutput = math.MaxInt64

// DefaultMaxOutput bounds each stream of a command that sets no bound, in
// bytes.
const DefaultMaxOutput = 64 << 20

// ExecResult is how a command ended.
type ExecResult struct {
	// ExitCode as the guest reports it; 128+N for a command ended by signal N.
	ExitCode int
	// TimedOut: the command was killed because its time was up. The exit code
	// is 128+9 then.
	TimedOut bool
	// Truncated: output beyond MaxOutput was dropped.
	Truncated bool
}

// FileInfo describes a file of a guest.
type FileInfo struct {
	// Size in bytes.
	Size int64
	// Mode holds the permission bits.
	Mode uint32
}

// ConsoleOptions say which part of a console's log to read.
type ConsoleOptions struct {
	// Follow keeps delivering what is written, until the context ends (Read
	// returns its error) or the machine is deleted (Read returns io.EOF).
	Follow bool
	// TailBytes starts at most so many bytes before the end; negative means
	// from the beginning.
	TailBytes int64
}

// GuestConfig is what is set up inside a running guest.
type GuestConfig struct {
	// User whose keys are set; empty leaves all keys alone.
	User string
	// SSHAuthorizedKeys replace those of the user; none removes them all. A key
	// is one line.
	SSHAuthorizedKeys []string
	// Mounts of shared folders.
	Mounts []v1.SharedFolder
}

// Hash identifies the configuration.
func (c GuestConfig) Hash() string { return hashOf(c) }

// IsEmpty tells whether there is nothing to set up.
func (c GuestConfig) IsEmpty() bool {
	return len(c.SSHAuthorizedKeys) == 0 && len(c.Mounts) == 0
}

// Login is how a user of a guest logs in.
type Login struct {
	User, Password string
}

// Logins knows how to log in to guests, for providers whose agents ask for it. It
// is asked each time and nothing is remembered, so that a password may change.
type Logins interface {
	// LoginOf is the login of the guest of the machine of a Sandbox, or of the one
	// that builds a GoldenImage, which is in no namespace.
	// ErrUnsupported when its image names none, ErrNotFound when the Sandbox or
	// what its image names is not there.
	LoginOf(ctx context.Context, namespace, name string, id types.UID) (Login, error)
}

// ReasonNotReached, of an error of Exec, says that nothing was begun in the guest.
const ReasonNotReached = "GuestNotReached"

// NotReached says so of an error that ended a call before it came to the guest.
func NotReached(err error) error {
	if KindOf(err) != ErrUnavailable {
		return err
	}
	var e *Error
	if !errors.As(err, &e) {
		return Errorf(ErrUnavailable, "guest", "%w", err).WithReason(ReasonNotReached)
	}
	marked := *e
	return marked.WithReason(ReasonNotReached)
}

// Guests reaches inside running machines. What a guest answers is hostile
// input: bounded, parsed strictly, and never taken for a path or an argument.
// A request that is wrong in itself is ErrInvalid. Without a connected agent the
// methods return ErrUnavailable; for a machine that is not running, ErrBusy.
type Guests interface {
	// Exec runs a command and returns when it has ended, whatever it has left
	// running in the background. A command that could not be started is
	// ErrNotFound (no such program) or ErrInvalid (not executable, no such
	// directory or user). When its time is up or the context ends, the command
	// and what it has started are killed in the guest, as far as the guest
	// still answers. It is never run a second time: ErrUnavailable without
	// ReasonNotReached means that it may have run, and how it ended is not known.
	Exec(ctx context.Context, id types.UID, req ExecRequest) (ExecResult, error)

	// WriteFile writes what r delivers to an absolute path of the guest, in
	// constant memory, and sets its permission bits (at most 0777). A file is
	// replaced as a whole or not at all. ErrNotFound when its directory does
	// not exist; ErrInvalid when the path is a directory, is not absolute or
	// cannot be written.
	WriteFile(ctx context.Context, id types.UID, path string, mode uint32, r io.Reader) error

	// ReadFile copies a regular file of the guest to w, in constant memory.
	// ErrNotFound when there is none; ErrInvalid when the path is not absolute
	// or is something else, such as a directory or a device.
	ReadFile(ctx context.Context, id types.UID, path string, w io.Writer) (FileInfo, error)

	// ConfigureGuest applies the configuration. It may be repeated. A user that
	// the guest does not have and a folder that the machine was not started
	// with are ErrInvalid.
	ConfigureGuest(ctx context.Context, id types.UID, cfg GuestConfig) error

	// Console reads the log of the serial console. The caller closes it, which ends a
	// Read that waits.
	// ErrNotFound when the machine does not exist; an empty log is no error.
	Console(ctx context.Context, id types.UID, opts ConsoleOptions) (io.ReadCloser, error)

	// TypeAtConsole opens the way to type at the serial console, whose log goes on
	// as it did. It is shared by all who type. A Write waits for a guest that does not
	// read; a bounded part of what is typed meanwhile may be lost. When the machine was
	// started anew, the next Write opens it again, or says why not. The caller closes
	// it; it ends with the context too. ErrNotFound when the machine does not exist,
	// ErrBusy when it is not running or somebody else than us has the console,
	// ErrUnsupported where it can only be read.
	TypeAtConsole(ctx context.Context, id types.UID) (io.WriteCloser, error)
}
