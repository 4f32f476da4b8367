package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/kube"
)

func (a *app) snapshot() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Keep the state of a sandbox",
		Long: `Keep the state of a sandbox, to go back to it or to fork it. Snapshots are objects:
"sandboxd get sandboxsnapshots" shows them, "sandboxd delete sandboxsnapshot NAME"
deletes one; snap is short for either.`,
		GroupID: groupStates,
		Example: examples(`
sandboxd snapshot create web before-upgrade --wait
sandboxd get sandboxsnapshots --field-selector spec.sandbox=web
sandboxd delete sandboxsnapshot before-upgrade`),
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.snapshotCreate())
	return cmd
}

func (a *app) snapshotCreate() *cobra.Command {
	s := &states{app: a}
	var memory bool
	cmd := &cobra.Command{
		Use:   "create SANDBOX [NAME]",
		Short: "Take a snapshot of a sandbox",
		Long: `Take a snapshot of a sandbox's disk and, with --memory, of its memory. The
sandbox goes on running; it may stand still for a moment. A sandbox that is being
made or started is waited for. Without a name one is made up and printed.`,
		Example: examples(`
sandboxd snapshot create web before-upgrade
sandboxd snapshot create web --memory --wait`),
		Args: argsBetween(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, sbx, err := s.sandbox(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if memory && sbx.Spec.PowerState == v1.PowerStopped {
				return fmt.Errorf("sandbox %s/%s is to be off and has no memory to keep: start it, or leave out --memory", sbx.Namespace, sbx.Name)
			}
			name := ""
			if len(args) > 1 {
				name = args[1]
			}
			snap, err := s.take(cmd.Context(), c, sbx, name, memory)
			if err != nil {
				return err
			}
			return s.until(cmd.Context(), "SandboxSnapshot", snap.Namespace, []string{snap.Name}, goalApplied)
		},
	}
	cmd.ValidArgsFunction = s.completeSandboxes()
	cmd.Flags().BoolVar(&memory, "memory", false, "Keep the memory too: a revert goes on where the guest was")
	return s.waiting(cmd, "it is taken")
}

// take makes a SandboxSnapshot; an empty name is made up.
func (s *states) take(ctx context.Context, c *client.Client, sbx *v1.Sandbox, name string, memory bool) (*v1.SandboxSnapshot, error) {
	snap := &v1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Namespace: sbx.Namespace, Name: name},
		Spec:       v1.SandboxSnapshotSpec{Sandbox: sbx.Name, Memory: memory},
	}
	if name == "" {
		snap.GenerateName = sbx.Name + "-"
	}
	if err := c.Create(ctx, snap, crclient.FieldOwner(kube.FieldManager)); err != nil {
		return nil, err
	}
	fmt.Fprintf(s.Out, "%s created\n", ref("SandboxSnapshot", snap.Name))
	return snap, nil
}
