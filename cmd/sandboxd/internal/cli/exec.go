package cli

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/client"
)

func (a *app) exec() *cobra.Command {
	var o client.ExecOptions
	var stdin, tty bool
	var maxOutput int64
	cmd := &cobra.Command{
		Use:   "exec SANDBOX [flags] -- COMMAND [ARGUMENT…]",
		Short: "Run a command in a sandbox",
		Long: `Run a command in a sandbox and exit with its exit code. No shell is involved,
unless the command is one. With -i, the command reads standard input as it comes;
with -it, it gets a terminal of the size of ours, and each key is passed on.

Exit codes: the command's own; 124 when its time was up and it was killed; 125
when it may have run and nobody saw how it ended; 126 when it could not be started
and 127 when the guest has no such program; 1 when the sandbox could not be
reached, and nothing was run. A command is never run a second time.`,
		Example: examples(`
sandboxd exec web -- uname -a
sandboxd exec web --timeout 30s -- sh -c 'make test'
echo 'print(6 * 7)' | sandboxd exec web -i -- python3 -
sandboxd exec web -it -- sh`),
		GroupID: groupGuests,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, command, err := execArgs(args, cmd.ArgsLenAtDash())
			if err != nil {
				return err
			}
			key, err := a.sandboxKey(name)
			if err != nil {
				return err
			}
			o.Command, o.Stdout, o.Stderr, o.MaxOutput = command, a.Out, a.Err, maxOutput
			if stdin {
				o.Stdin = a.In
			}
			if o.MaxOutput < 0 {
				return fmt.Errorf("--max-output %d is negative", o.MaxOutput)
			}
			if o.Timeout < 0 {
				return fmt.Errorf("the timeout %v is negative", o.Timeout)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			if tty {
				sizes, restore, ok, err := a.takeTerminal(stdin)
				if err != nil {
					return err
				}
				if o.TTY, o.Resize = ok, sizes; ok {
					o.MaxOutput = 0
					defer restore()
				}
			}
			result, err := c.Exec(cmd.Context(), key, o)
			if errors.Is(err, client.ErrOutcomeUnknown) {
				return &exitError{exitUnknown, err}
			}
			if err != nil {
				return err
			}
			return a.execOutcome(command, o.Timeout, result)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&stdin, "stdin", "i", false, "Pass standard input to the command")
	flags.BoolVarP(&tty, "tty", "t", false, "Give the command a terminal; with -i only")
	flags.StringVarP(&o.User, "user", "u", "", "User to run as (default: the image's)")
	flags.StringVarP(&o.Dir, "workdir", "w", "", "Directory to run in")
	flags.StringArrayVarP(&o.Env, "env", "e", nil, "Variable to set, as NAME=value; may be repeated")
	flags.DurationVar(&o.Timeout, "timeout", 0, "Kill the command after this time, such as 30s (default: never)")
	flags.Int64Var(&maxOutput, "max-output", 64<<20, "Keep at most so many bytes each of standard output and standard error; 0: all, which takes the guest a little longer to begin. A terminal shows all")
	cmd.ValidArgsFunction = a.completeSandboxes()
	return a.namespaced(cmd)
}

// execArgs splits the arguments into the sandbox and the command.
func execArgs(args []string, dash int) (name string, command []string, err error) {
	switch {
	case len(args) == 0 || dash == 0:
		return "", nil, errors.New("say which sandbox: sandboxd exec SANDBOX -- COMMAND")
	case dash == -1 && len(args) > 1:
		return "", nil, fmt.Errorf("put -- before the command: sandboxd exec %s -- %s", args[0], strings.Join(args[1:], " "))
	case dash > 1:
		return "", nil, fmt.Errorf("one sandbox is wanted before --, not %d", dash)
	case len(args) == 1:
		return "", nil, fmt.Errorf("say which command: sandboxd exec %s -- COMMAND", args[0])
	}
	return args[0], args[1:], nil
}

// sandboxKey reads the name of a sandbox: NAME, sandbox/NAME or NAMESPACE/NAME.
func (a *app) sandboxKey(name string) (types.NamespacedName, error) {
	key := types.NamespacedName{Namespace: a.namespaceOr(), Name: name}
	prefix, rest, ok := strings.Cut(name, "/")
	if !ok {
		if !isName(name) {
			return key, fmt.Errorf("%q is not the name of a sandbox: use NAME or NAMESPACE/NAME", name)
		}
		return key, nil
	}
	switch strings.ToLower(prefix) {
	case "sandbox", "sandboxes", "sbx", "sandbox.sandboxd.dev", "sandboxes.sandboxd.dev":
	default:
		if a.namespace != "" && a.namespace != prefix {
			return key, fmt.Errorf("%s is in the namespace %s, but -n says %s", name, prefix, a.namespace)
		}
		key.Namespace = prefix
	}
	if key.Name = rest; !isName(rest) || !isName(prefix) {
		return key, fmt.Errorf("%q is not the name of a sandbox: use NAME or NAMESPACE/NAME", name)
	}
	return key, nil
}

// isName tells whether a word can be the name of an object, and not the way to
// something else.
func isName(word string) bool { return len(content.IsPathSegmentName(word)) == 0 && word != "" }

// execOutcome tells on standard error what the exit code cannot.
func (a *app) execOutcome(command []string, timeout time.Duration, r client.ExecResult) error {
	if r.Truncated {
		fmt.Fprintln(a.Err, "warning: output beyond the limit was dropped: see --max-output")
	}
	switch {
	case r.TimedOut:
		return &exitError{exitTimedOut, fmt.Errorf("%s was killed: it did not end within %v", command[0], timeout)}
	case r.ExitCode == 0:
		return nil
	case r.NotStarted:
		return &exitError{r.ExitCode, errors.New(r.Message)}
	default:
		return &exitError{code: r.ExitCode}
	}
}
