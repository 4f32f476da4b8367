// Package cli is the command line of sandboxd: one file per command.
//
// Commands read flags, talk to the daemon through the packages client and kube,
// and print. What they decide is in pure functions beside them. They print
// results on standard output and everything else on standard error; an error is
// one sentence there.
//
// Exit codes: 0 success; 1 failure; 130 interrupted. `diff` exits with 1 when
// there are differences and with 2 when it fails. `exec` exits with the
// command's own code, with 124 when its time was up, with 125 when nobody saw how
// it ended, with 126 or 127 when the guest could not start it, and with 1 when it
// could not be reached. `ssh` becomes the program ssh, and its exit code is that one's.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/rest"

	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/daemon"
	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/kube"
)

// Streams are what a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Exit codes that are not a command's own.
const (
	exitFailure     = 1
	exitTimedOut    = 124 // as timeout(1)
	exitUnknown     = 125 // a command was lost
	exitInterrupted = 130 // 128 + SIGINT, as shells have it
)

// exitError ends the program with a code; a nil err prints nothing more.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// Run runs the command line of a build and returns the exit code.
func Run(ctx context.Context, build version.Info, args []string, s Streams) int {
	root := newRoot(&app{Streams: s, build: build})
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	code := exitFailure
	var exit *exitError
	if errors.As(err, &exit) {
		if code, err = exit.code, exit.err; err == nil {
			return code
		}
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	fmt.Fprintln(s.Err, "error: "+sentence(err))
	return code
}

// app is what the commands share.
type app struct {
	Streams
	build     version.Info
	socket    string
	namespace string
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "sandboxd",
		Short: "Throw-away virtual machines from manifests",
		Long: `sandboxd makes this host a declarative home of throw-away virtual machines for
code that nobody trusts. "sandboxd serve" runs the daemon; all other commands
talk to it. Manifests say what sandboxes there are to be, and the daemon makes
the hypervisor match.`,
		Example: `  # Apply manifests and wait until everything they say is so
  sandboxd apply -f examples/manifests/quickstart --wait

  # Run a command in a sandbox
  sandboxd exec hello -- uname -a

  # See what there is, and remove it
  sandboxd get sandboxes,goldenimages
  sandboxd delete -f examples/manifests/quickstart`,
		SilenceUsage: true, SilenceErrors: true, SuggestionsMinimumDistance: 2,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		// Commands say what went wrong themselves; libraries log nothing beside
		// it. The daemon has its own logger.
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			if cmd.Name() != "serve" {
				daemon.AdoptLoggers(logr.Discard())
			}
		},
	}
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.CompletionOptions.HiddenDefaultCmd = false
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w: see '%s --help'", err, cmd.CommandPath())
	})
	root.AddGroup(
		&cobra.Group{ID: groupDaemon, Title: "The daemon:"},
		&cobra.Group{ID: groupObjects, Title: "Objects:"},
		&cobra.Group{ID: groupStates, Title: "The state of a sandbox:"},
		&cobra.Group{ID: groupGuests, Title: "Inside a sandbox:"},
		&cobra.Group{ID: groupAccess, Title: "Who may come in:"},
		&cobra.Group{ID: groupOther, Title: "Other:"},
	)
	root.SetHelpCommandGroupID(groupOther)
	root.SetCompletionCommandGroupID(groupOther)
	root.AddCommand(
		a.serve(), a.crds(), a.doctor(), a.backup(), a.restore(), a.gc(), a.manifests(),
		a.apply(), a.diff(), a.get(), a.describe(), a.delete(), a.wait(), a.events(), a.validate(), a.explain(),
		a.snapshot(), a.fork(), a.revert(), a.image(), a.promote(),
		a.kubeconfig(), a.users(), a.pki(),
		a.exec(), a.attach(), a.ssh(), a.cp(), a.logs(), a.portForward(), a.diffDisk(),
		a.version(),
	)
	root.AddCommand(a.powerCommands()...)
	root.InitDefaultCompletionCmd()
	if completion, _, err := root.Find([]string{"completion"}); err == nil && completion.HasParent() {
		completion.Args = noArgs // a shell that is not known is no request for help
		completion.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	return root
}

// The groups of commands in the help.
const (
	groupDaemon  = "daemon"
	groupObjects = "objects"
	groupStates  = "states"
	groupGuests  = "guests"
	groupAccess  = "access"
	groupOther   = "other"
)

// noArgs refuses arguments, such as a command that does not exist.
func noArgs(cmd *cobra.Command, args []string) error {
	path := cmd.CommandPath()
	switch {
	case len(args) == 0:
		return nil
	case cmd.HasAvailableSubCommands():
		name := strings.TrimPrefix(path+" "+args[0], cmd.Root().Name()+" ")
		hint := ""
		cmd.SuggestionsMinimumDistance = cmd.Root().SuggestionsMinimumDistance
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			hint = fmt.Sprintf(" (did you mean %q?)", near[0])
		}
		return fmt.Errorf("there is no command %q%s: see '%s --help'", name, hint, path)
	case cmd.Flags().Lookup("filename") != nil:
		return fmt.Errorf("%s takes no arguments, and %q is one: say -f %s for a file: see '%s --help'", path, args[0], args[0], path)
	}
	return fmt.Errorf("%s takes no arguments, and %q is one: see '%s --help'", path, args[0], path)
}

// wantArgs refuses another number of arguments than n. They are called what the
// command's usage calls them.
func wantArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		names := strings.TrimPrefix(cmd.Use, cmd.Name()+" ")
		if len(args) < n {
			return fmt.Errorf("say %s: see '%s --help'", names, cmd.CommandPath())
		}
		return fmt.Errorf("%q is more than %s: see '%s --help'", args[n], names, cmd.CommandPath())
	}
}

// connected adds the flag that says where the daemon is.
func (a *app) connected(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&a.socket, "socket", "",
		"Unix socket of the daemon (default: $SANDBOXD_SOCKET, else "+client.SystemSocket+", else the user's own daemon's)")
	return cmd
}

// namespaced adds the flag of the namespace, besides connected's.
func (a *app) namespaced(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVarP(&a.namespace, "namespace", "n", "", `Namespace of the objects (default "default")`)
	_ = cmd.RegisterFlagCompletionFunc("namespace", a.completeNamespaces)
	return a.connected(cmd)
}

// namespaceOr is the namespace that was asked for, or the default one.
func (a *app) namespaceOr() string {
	if a.namespace == "" {
		return metav1.NamespaceDefault
	}
	return a.namespace
}

// socketPath is where the daemon is looked for.
func (a *app) socketPath() string {
	if a.socket != "" {
		return a.socket
	}
	return client.FindSocket()
}

// config reaches the daemon.
func (a *app) config() *rest.Config {
	config := client.SocketConfig(a.socketPath())
	config.UserAgent = kube.FieldManager
	config.WarningHandler = warnings{a.Err}
	return config
}

// client makes a client of the guests.
func (a *app) client() (*client.Client, error) {
	return client.New(client.Options{Config: a.config()})
}

// api makes a client of the objects.
func (a *app) api() (*kube.API, error) {
	config := a.config()
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	httpClient.Timeout = 0 // watches last
	return kube.New(config, httpClient)
}

// warnings prints what the server warns of.
type warnings struct{ w io.Writer }

// HandleWarningHeader implements rest.WarningHandler.
func (w warnings) HandleWarningHeader(code int, _, text string) {
	if code == 299 && text != "" {
		fmt.Fprintln(w.w, "warning: "+text)
	}
}

// isTerminal tells whether something is written to a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// examples formats the example text of a command.
func examples(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ")
}
