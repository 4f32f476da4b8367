// Package guestcontrol reaches into guests by the guest control of VirtualBox's
// Guest Additions.
//
//	Exec ──copyto──▶ /tmp/.sandboxd-TOKEN.in        variables and input, if any
//	  ──VBoxManage guestcontrol run──▶ /bin/sh ──▶ command
//	  ◀── stdout, stderr as they come ──────┘ ... \001TOKEN done CODE
//
// All users of the host can read VBoxManage's arguments. So the values of
// variables, input and the content of files go by a file that only this user can
// read; the script itself, with the words of the command, goes by the arguments.
//
// VBoxManage maps a guest's exit codes above 94 to one, waits for whatever the
// command left in the background, and takes arguments apart and puts them
// together again. So the guest's shell runs the command, by a script that is made
// for it and travels in plain characters; it reports in the streams themselves,
// behind a token that nobody in the guest can guess in advance.
//
// Scripts start as few processes as they can, and keep no files: where there is
// no kernel driver, each process takes the guest most of a second.
//
// Everything that comes from a guest is hostile: what it prints is passed on or
// compared with words, never used as a path or as part of a command.
package guestcontrol

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/guestio"
	"sandboxd.dev/sandboxd/providers/internal/guestscript"
)

// Errors besides those of package guestcall.
var (
	// ErrNotReady: the Guest Additions do not take commands yet.
	ErrNotReady = errors.New("the guest's Guest Additions are not ready yet")
	// ErrLogin: the guest refused user or password.
	ErrLogin = errors.New("the guest refused the user or the password")
	// ErrUnusable: the guest takes commands and ends each at once.
	ErrUnusable = errors.New("the guest ends every session at once")
	// ErrGone, as the cause of a context's end: the machine went off, and all that
	// ran in it.
	ErrGone = errors.New("the machine went off")
)

// Guest runs VBoxManage guestcontrol on one machine, with its login.
type Guest interface {
	// Control makes a call, and may make it again while the guest is not ready. It
	// ends with the context. How many run at a time may be bounded. The error is
	// one of the above, or guestcall.ErrGuestLacks, if the guest or its Guest
	// Additions gave the reason.
	Control(ctx context.Context, call Call) error
}

// Call is a verb of VBoxManage guestcontrol with its arguments.
type Call struct {
	Verb string
	Args []string
	// Stdout and Stderr get the output as it comes; nil discards.
	Stdout, Stderr io.Writer
	// Urgent calls wait for no other.
	Urgent bool
	// Given is called when the guest is given it, after it has waited for others;
	// nil for nobody.
	Given func()
	// Started is closed when the guest has begun with it, so that it must not be
	// made again; nil for a call that may be made twice.
	Started <-chan struct{}
}

// Client speaks with one guest.
type Client struct {
	guest Guest
	// temp is a folder of the host for what is copied in.
	temp       string
	maxInput   int64
	startLimit time.Duration
}

// New makes a Client. Files that go to the guest are kept in temp meanwhile.
func New(g Guest, temp string) *Client {
	return &Client{guest: g, temp: temp, maxInput: maxInput, startLimit: guestio.StartLimit}
}

//go:embed scripts/*.sh
var scripts embed.FS

var (
	reportScript = guestscript.Load(scripts, "report")
	userScript   = guestscript.Load(scripts, "user")
	startScript  = guestscript.Load(scripts, "start")
	killScript   = guestscript.Load(scripts, "kill")

	variablesScript = guestscript.Load(scripts, "variables")
	readScript      = guestscript.Load(scripts, "read")
	pumpScript      = guestscript.Load(scripts, "pump")
	terminalScript  = guestscript.Load(scripts, "terminal")
)

// bootstrap makes a script of its arguments, in characters that nothing on the
// way to the guest's shell changes.
const bootstrap = `IFS=;set -f;eval $(printf %b $@)`

const (
	// maxInput bounds what is copied in at a time, in bytes: the host keeps it on
	// its disk meanwhile.
	maxInput = 4 << 30
	// afterwards bounds killing and cleaning up once the caller is gone. An
	// interpreted guest, busy with the command, was seen to take a minute.
	afterwards = 3 * time.Minute
	// unheard bounds killing what has not reported its start: its guest may not
	// answer anybody.
	unheard = 30 * time.Second
	// goodbye is how long VBoxManage may take to end once the command has.
	goodbye = 2 * time.Second
)

// sh runs a script by the guest's shell.
func (c *Client) sh(ctx context.Context, urgent bool, r *run, script string) error {
	args := []string{"--exe", "/bin/sh", "--wait-stdout", "--wait-stderr", "--", "-c", bootstrap, "sandboxd"}
	for part := range slices.Chunk([]byte(script), maxPart) {
		args = append(args, encode(part))
	}
	stop := func() {}
	defer func() { stop() }()
	given := func() {
		r.given.Store(true)
		stop = guestio.Awaited(r.started, c.startLimit, func(err error) { r.cancel(err) })
	}
	return c.guest.Control(ctx, Call{
		Verb: "run", Args: args, Stdout: r.stdout, Stderr: r.stderr, Urgent: urgent, Given: given, Started: r.started,
	})
}

// maxPart of a script goes into one argument, in bytes: written as encode does,
// that stays within the 128 KiB which Linux allows one.
const maxPart = 24 << 10

// encode writes a part of a script for printf's %b, so that nothing is left in it
// which VirtualBox or a shell could take for something else.
func encode(part []byte) string {
	var b strings.Builder
	for i, c := range part {
		space := c == ' ' && i > 0 && i < len(part)-1
		switch {
		case c == '\n':
			b.WriteString(`\n`)
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("_./:=,+@%", c) >= 0, space, c == '-' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\0%03o`, c)
		}
	}
	return b.String()
}

// quote writes words for a shell.
func quote(words ...string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}

// head begins every script.
func head(token string) string { return "token=" + token + "\n" + reportScript }

// token names temporary files and reports so that nobody in the guest can guess
// it.
func token() string { return "t" + guestscript.Token() }

// patternOf is a pattern that matches a token, but not itself, neither as it is
// nor as encode writes it: what that writes before the rest of the token ends in
// a digit, and the token does not begin with one.
func patternOf(token string) string { return "[" + token[:1] + "]" + token[1:] }

// shell runs one of our scripts and returns what it printed, up to 64 KiB.
func (c *Client) shell(ctx context.Context, script string, stdin io.Reader, args ...string) (string, error) {
	var out strings.Builder
	err := c.stream(ctx, false, script, stdin, func(p []byte) error {
		out.Write(p[:min(len(p), 64<<10-out.Len())])
		return nil
	}, args...)
	return out.String(), err
}

// stream runs one of our scripts and passes on what it prints.
func (c *Client) stream(ctx context.Context, urgent bool, script string, stdin io.Reader, deliver func([]byte) error, args ...string) error {
	id := token()
	in, err := c.input(ctx, id, nil, stdin)
	if err != nil {
		return err
	}
	text := head(id) + "report start\n" + in.open() + "(\nset -- " + quote(args...) + "\n" + script + ")" + in.from() + "\nreport 'done 0'\n"
	run := newRun(ctx, id, deliver, nil)
	err = run.wait(func(ctx context.Context) error { return c.sh(ctx, urgent, run, text) }, nil)
	c.tidy(ctx, in, run, err)
	if err == nil && run.verdict() != "done 0" {
		err = fmt.Errorf("the guest's report is not understood: %q", guestcall.Printable(run.verdict()))
	}
	return err
}

// input is the file of the guest that a command reads; empty when it has nothing
// to read. If there are variables, they are its first line.
type input string

// open opens the file, whose name goes at once.
func (in input) open() string {
	if in == "" {
		return ""
	}
	return "{ exec 3<" + string(in) + " && rm -f " + string(in) + "; } 2>/dev/null || refuse temp\n"
}

// from makes a command read the file.
func (in input) from() string {
	if in == "" {
		return " </dev/null"
	}
	return " <&3 3<&-"
}

// input copies to the guest what a command is given: variables, as NAME=value,
// and what it has to read.
func (c *Client) input(ctx context.Context, token string, env []string, stdin io.Reader) (input, error) {
	if len(env) == 0 && stdin == nil {
		return "", nil
	}
	var line string
	if len(env) > 0 {
		line = strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(quote(env...)) + "\n"
	}
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	f, err := os.CreateTemp(c.temp, ".copy-*") // of mode 0600
	if err != nil {
		return "", err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	n, err := io.Copy(f, io.LimitReader(io.MultiReader(strings.NewReader(line), guestcall.Input(ctx, stdin)), c.maxInput+1))
	err = errors.Join(err, f.Close())
	switch {
	case err != nil:
		return "", err
	case n > c.maxInput:
		return "", fmt.Errorf("%w: there are more than %d bytes of input: use a shared folder", guestcall.ErrBadRequest, c.maxInput)
	case n == 0:
		return "", nil
	}
	in := input("/tmp/.sandboxd-" + token + ".in")
	if err := c.guest.Control(ctx, Call{Verb: "copyto", Args: []string{f.Name(), string(in)}}); err != nil {
		c.remove(ctx, in, err)
		return "", err
	}
	return in, nil
}

// tidy removes the file that a command was to read when its script has not come
// to do so.
func (c *Client) tidy(ctx context.Context, in input, r *run, err error) {
	if in != "" && err != nil && !r.hasBegun() {
		c.remove(ctx, in, err)
	}
}

// remove removes what may have been copied to the guest before something failed,
// as far as the guest still answers.
func (c *Client) remove(ctx context.Context, in input, failed error) {
	for _, deaf := range []error{ErrNotReady, ErrLogin, ErrUnusable, guestcall.ErrGuestLacks, guestio.ErrNotStarted} {
		if errors.Is(failed, deaf) {
			return
		}
	}
	if errors.Is(context.Cause(ctx), ErrGone) {
		return
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	_, _ = c.shell(late, `rm -f "$1"`, nil, string(in))
}
