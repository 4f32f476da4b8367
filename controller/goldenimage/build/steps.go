package build

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// Guest is the way into the machine's guest; its methods are as those of
// providers.Guests.
type Guest interface {
	Exec(ctx context.Context, req providers.ExecRequest) (providers.ExecResult, error)
	WriteFile(ctx context.Context, path string, mode uint32, r io.Reader) error
}

// Progress of the job of the steps.
type Progress struct {
	// Step under way; empty before the first and after the last one.
	Step string
	// Index of it, from 1, and how many there are.
	Index, Total int
	// Doing says what is done besides the steps.
	Doing string
}

// String says it to a person.
func (p Progress) String() string {
	if p.Step == "" {
		return p.Doing
	}
	return fmt.Sprintf("step %d of %d: %s", p.Index, p.Total, p.Step)
}

// Run is one run of all the steps of a build.
type Run struct {
	Guest Guest
	Steps []v1.ProvisionStep
	// Agent: the guest is known to be up. Otherwise it is waited for, Patience
	// long.
	Agent    bool
	Patience time.Duration
	// User that the guest is entered as; root unless the guest's access has it
	// otherwise.
	User string
	// Key of ours that the seed has authorized, to be taken away at the end.
	Key string
	// Log gets what the scripts print.
	Log io.Writer
}

//go:embed clean.sh
var cleaning string

const (
	// scriptDir is where a script lies while it runs. Every system has it, and it
	// is emptied at the next boot at the latest.
	scriptDir = "/tmp"
	// maxOutput of a script, in bytes: what it prints is passed on, not kept.
	maxOutput = 1 << 40
	// knock is how often a guest is tried that has no agent to tell when it is up.
	knock = 2 * time.Second
	// lastBytes of a script's output are quoted when it fails.
	lastBytes = 400
)

// environment of scripts; agents have hardly any.
var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
}

// Do runs the steps in order and cleans up behind them. A step that failed is a
// *Failure; any other error is that of the guest or the way to it.
func (r Run) Do(ctx context.Context, report func(Progress)) error {
	if !r.Agent {
		report(Progress{Doing: "waiting for the guest's ssh server"})
		if err := r.await(ctx); err != nil {
			return err
		}
	}
	for i, s := range r.Steps {
		p := Progress{Step: s.Name, Index: i + 1, Total: len(r.Steps)}
		report(p)
		r.say("==> %s", p)
		if err := r.step(ctx, i, s); err != nil {
			r.say("==> %v", err)
			return err
		}
	}
	report(Progress{Doing: "cleaning up behind the steps"})
	return r.script(ctx, "clean", "", cleaning, []string{"LEFTOVER=" + r.Key})
}

// await tries to get in until that works.
func (r Run) await(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, r.Patience)
	defer cancel()
	tick := time.NewTicker(knock)
	defer tick.Stop()
	for {
		_, err := r.Guest.Exec(bounded, providers.ExecRequest{Command: []string{"true"}})
		if err == nil || providers.IsTerminal(err) {
			return err
		}
		select {
		case <-tick.C:
		case <-bounded.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return &Failure{
				Reason:  v1.ReasonBuildFailed,
				Message: fmt.Sprintf("no way into the guest by ssh was found within %v: %v", r.Patience, err),
			}
		}
	}
}

func (r Run) step(ctx context.Context, index int, s v1.ProvisionStep) error {
	if s.File == nil {
		return r.script(ctx, strconv.Itoa(index+1), s.Name, s.Script, nil)
	}
	mode, err := strconv.ParseUint(s.File.Mode, 8, 12)
	if s.File.Mode == "" {
		mode, err = 0o644, nil
	}
	if err != nil {
		return &Failure{Reason: v1.ReasonInvalid, Step: s.Name, Message: fmt.Sprintf("step %q: mode %q is not an octal number", s.Name, s.File.Mode)}
	}
	err = r.Guest.WriteFile(ctx, s.File.Path, uint32(mode), strings.NewReader(s.File.Content))
	if isOfStep(err) {
		return &Failure{Reason: v1.ReasonProvisionFailed, Step: s.Name, Message: fmt.Sprintf("step %q: file %s cannot be written: %v", s.Name, s.File.Path, err)}
	}
	return err
}

// script writes a script into the guest, runs it and removes it again. A script
// without the name of a step is ours.
func (r Run) script(ctx context.Context, id, step, text string, env []string) error {
	path := scriptDir + "/.sandboxd-build-" + id
	what := fmt.Sprintf("step %q", step)
	if step == "" {
		what = "the cleaning behind the steps"
	}
	if err := r.Guest.WriteFile(ctx, path, 0o700, strings.NewReader(text)); err != nil {
		return r.failed(step, what, err)
	}
	last := &tail{most: lastBytes}
	out := io.MultiWriter(r.log(), last)
	result, err := r.Guest.Exec(ctx, providers.ExecRequest{
		Command: interpreter(text, path), Env: r.env(env), Dir: "/", Stdout: out, Stderr: out, MaxOutput: maxOutput,
	})
	if err != nil {
		return r.failed(step, what, err)
	}
	if _, err := r.Guest.Exec(ctx, providers.ExecRequest{Command: []string{"rm", "-f", path}}); err != nil {
		return r.failed(step, what, err)
	}
	if result.ExitCode == 0 {
		return nil
	}
	code := int32(result.ExitCode)
	f := &Failure{Reason: v1.ReasonProvisionFailed, Step: step, ExitCode: &code, Message: fmt.Sprintf("%s ended with exit code %d", what, code)}
	if words := last.lines(); words != "" {
		f.Message += ": " + words
	}
	return f
}

// failed makes a Failure of an error that the step is to blame for.
func (r Run) failed(step, what string, err error) error {
	if !isOfStep(err) {
		return err
	}
	return &Failure{Reason: v1.ReasonProvisionFailed, Step: step, Message: fmt.Sprintf("%s cannot be run: %v", what, err)}
}

// isOfStep tells whether an error would be the same in another machine: a
// directory or an interpreter that the image does not have, a full disk.
func isOfStep(err error) bool {
	return errors.Is(err, providers.ErrNotFound) || errors.Is(err, providers.ErrInvalid) || errors.Is(err, providers.ErrCapacity)
}

// interpreter is how to run a script: as the system would by its #! line, which
// also works where programs in its directory may not be executed.
func interpreter(text, path string) []string {
	line, _, _ := strings.Cut(text, "\n")
	program, ok := strings.CutPrefix(strings.TrimRight(line, "\r"), "#!")
	program = strings.TrimSpace(program)
	if !ok || !strings.HasPrefix(program, "/") {
		return []string{"/bin/sh", path}
	}
	name, arg, _ := strings.Cut(program, " ")
	command := []string{name}
	if arg = strings.TrimSpace(arg); arg != "" {
		command = append(command, arg) // all of it is one argument
	}
	return append(command, path)
}

func (r Run) env(more []string) []string {
	env := append(environment[:len(environment):len(environment)], more...)
	if r.User == "" || r.User == "root" {
		env = append(env, "HOME=/root")
	}
	return env
}

func (r Run) log() io.Writer {
	if r.Log == nil {
		return io.Discard
	}
	return r.Log
}

func (r Run) say(format string, args ...any) { _, _ = fmt.Fprintf(r.log(), format+"\n", args...) }

// tail keeps the end of what is written.
type tail struct {
	most int
	buf  []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.most; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

// lines are the last lines as one line, with what is not text left out.
func (t *tail) lines() string {
	text := strings.ToValidUTF8(string(t.buf), "")
	if len(t.buf) == t.most { // the first line was cut
		if _, rest, ok := strings.Cut(text, "\n"); ok {
			text = rest
		}
	}
	var kept []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(printable(line)); line != "" {
			kept = append(kept, line)
		}
	}
	const most = 3
	return strings.Join(kept[max(0, len(kept)-most):], " / ")
}
