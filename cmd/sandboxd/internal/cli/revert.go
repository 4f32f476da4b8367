package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/client"
)

func (a *app) revert() *cobra.Command {
	s := &states{app: a}
	cmd := &cobra.Command{
		Use:   "revert SANDBOX [SNAPSHOT]",
		Short: "Put a sandbox back to a snapshot",
		Long: `Put a sandbox back to one of its snapshots, in place: what happened since is
lost. Without a snapshot, or with "golden", it is put back to the state that it
was cloned in. It goes on as its spec says: a snapshot with memory goes on where
the guest was, any other is started from its disk. Each call is one more revert.`,
		GroupID: groupStates,
		Example: examples(`
sandboxd revert web before-upgrade --wait
sandboxd revert web golden`),
		Args: argsBetween(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, sbx, err := s.sandbox(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			to := v1.RevertTo{Snapshot: v1.SnapshotGolden, Request: request(time.Now())}
			if len(args) > 1 {
				to.Snapshot = args[1]
			}
			if err := checkTarget(cmd.Context(), c, sbx, to.Snapshot); err != nil {
				return err
			}
			if err := changeSpec(cmd.Context(), c, sbx, func(spec *v1.SandboxSpec) { spec.RevertTo = &to }); err != nil {
				return err
			}
			fmt.Fprintf(s.Out, "%s reverting to %s\n", ref("Sandbox", sbx.Name), to.Snapshot)
			return s.until(cmd.Context(), "Sandbox", sbx.Namespace, []string{sbx.Name}, goalReverted(to.Request))
		},
	}
	golden := func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		names, directive := s.completeSnapshots(cmd, args, typed)
		return append(names, v1.SnapshotGolden), directive
	}
	cmd.ValidArgsFunction = s.completeSandboxes(golden)
	return s.waiting(cmd, "it is reverted and as its spec says")
}

// request is a word that no earlier revert had.
func request(now time.Time) string {
	return now.UTC().Format("20060102-150405-") + rand.String(5)
}

// checkTarget refuses what would have to wait for ever.
func checkTarget(ctx context.Context, c *client.Client, sbx *v1.Sandbox, name string) error {
	if name == v1.SnapshotGolden {
		return nil
	}
	snap := &v1.SandboxSnapshot{}
	if err := c.Get(ctx, types.NamespacedName{Namespace: sbx.Namespace, Name: name}, snap); err != nil {
		return err
	}
	return ofSandbox(snap, sbx)
}

func ofSandbox(snap *v1.SandboxSnapshot, sbx *v1.Sandbox) error {
	if snap.Spec.Sandbox == sbx.Name {
		return nil
	}
	return fmt.Errorf("snapshot %s/%s is of sandbox %q, not of %q", snap.Namespace, snap.Name, snap.Spec.Sandbox, sbx.Name)
}

// goalReverted: a revert was carried out, and the sandbox is as its spec says.
func goalReverted(request string) goal {
	return func(u *unstructured.Unstructured) state {
		s := goalApplied(u)
		if u == nil || s.stuck {
			return s
		}
		if done, _, _ := unstructured.NestedString(u.Object, "status", "revert", "request"); done != request {
			s.met = false
		}
		return s
	}
}
