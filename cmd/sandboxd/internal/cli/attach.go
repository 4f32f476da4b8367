package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"sandboxd.dev/sandboxd/client"
)

func (a *app) attach() *cobra.Command {
	var stdin, tty bool
	cmd := &cobra.Command{
		Use:   "attach SANDBOX",
		Short: "Connect with the serial console of a sandbox",
		Long: `Show what the guest prints on its serial console from now on and, with -i, type
there. With -it, everything is passed on as it is typed and shown as it comes; Ctrl-]
leaves. What was printed before, sandboxd logs shows. Whether anybody answers is the
guest's matter: it needs a login or a shell on its first serial port. All who type at
a console share it.`,
		GroupID: groupGuests,
		Example: examples(`
sandboxd attach web
sandboxd attach web -it`),
		Args: wantArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := a.sandboxKey(args[0])
			if err != nil {
				return err
			}
			ctx, cancel := context.WithCancelCause(cmd.Context())
			defer cancel(nil)
			o := client.ExecOptions{Stdout: a.Out}
			if isTerminal(a.Out) {
				o.Stdout = &tamed{w: a.Out}
			}
			if stdin {
				o.Stdin = a.In
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
				if ok {
					defer restore()
					o.Stdout, o.Resize = a.Out, sizes
					o.Stdin = leaving{a.In, func() { cancel(errLeft) }}
				}
			}
			err = c.Attach(ctx, key, o)
			if errors.Is(context.Cause(ctx), errLeft) || (!stdin && errors.Is(err, context.Canceled)) {
				return nil // the user has seen enough
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&stdin, "stdin", "i", false, "Pass standard input to the console")
	cmd.Flags().BoolVarP(&tty, "tty", "t", false, "Standard input is a terminal: pass on each key; with -i only")
	cmd.ValidArgsFunction = a.completeSandboxes()
	return a.namespaced(cmd)
}
