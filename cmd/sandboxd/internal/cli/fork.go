package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/kube"
)

func (a *app) fork() *cobra.Command {
	f := &forker{states: states{app: a}}
	cmd := &cobra.Command{
		Use:   "fork SANDBOX [NAME]",
		Short: "Make new sandboxes from the state of one",
		Long: `Make new sandboxes that begin with the disk of another one, as it is in a
snapshot. Unless --snapshot names one, a snapshot of the disk is taken first and
kept; it can be deleted once its forks are gone.

Each fork has an identity of its own, and the spec of the sandbox, except that it
runs, that fixed host ports become free ones, and that the hostname is its own
name. Without --count one fork is made and called NAME, else as many as it says,
called NAME-1, NAME-2 and so on. NAME is SANDBOX-fork unless it is given.`,
		GroupID: groupStates,
		Example: examples(`
sandboxd fork web attempt
sandboxd fork web attempt --count 10 --wait
sandboxd fork web --snapshot before-upgrade`),
		Args: argsBetween(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.numbered = cmd.Flags().Changed("count")
			return f.run(cmd.Context(), args)
		},
	}
	cmd.ValidArgsFunction = f.completeSandboxes()
	cmd.Flags().IntVar(&f.count, "count", 1, "How many forks to make")
	cmd.Flags().StringVar(&f.snapshot, "snapshot", "", "Snapshot of the sandbox to begin from (default: one that is taken now)")
	_ = cmd.RegisterFlagCompletionFunc("snapshot", f.completeSnapshots)
	return f.waiting(cmd, "the forks are ready")
}

// forker is one run of fork.
type forker struct {
	states
	count    int
	numbered bool
	snapshot string
}

func (f *forker) run(ctx context.Context, args []string) error {
	if f.count < 1 {
		return errNoForks
	}
	c, sbx, err := f.sandbox(ctx, args[0])
	if err != nil {
		return err
	}
	name := sbx.Name + "-fork"
	if len(args) > 1 {
		name = args[1]
	}
	names := forkNames(name, f.count, f.numbered)
	// Nothing is made unless all can be.
	for _, name := range names {
		if err := f.create(ctx, c, forkOf(sbx, name, "x"), crclient.DryRunAll); err != nil {
			return err
		}
	}
	snap, err := f.source(ctx, c, sbx)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := f.create(ctx, c, forkOf(sbx, name, snap)); err != nil {
			return err
		}
		fmt.Fprintf(f.Out, "%s created\n", ref("Sandbox", name))
	}
	return f.until(ctx, "Sandbox", sbx.Namespace, names, goalApplied)
}

// source is the name of the snapshot to begin from.
func (f *forker) source(ctx context.Context, c *client.Client, sbx *v1.Sandbox) (string, error) {
	if f.snapshot == "" {
		snap, err := f.take(ctx, c, sbx, "", false)
		if err != nil {
			return "", err
		}
		return snap.Name, nil
	}
	snap := &v1.SandboxSnapshot{}
	if err := c.Get(ctx, types.NamespacedName{Namespace: sbx.Namespace, Name: f.snapshot}, snap); err != nil {
		return "", err
	}
	return snap.Name, ofSandbox(snap, sbx)
}

func (f *forker) create(ctx context.Context, c *client.Client, fork *v1.Sandbox, options ...crclient.CreateOption) error {
	err := c.Create(ctx, fork, append(options, crclient.FieldOwner(kube.FieldManager))...)
	return alreadyThere(err, fork.Name)
}

// forkNames are the names of the forks.
func forkNames(name string, count int, numbered bool) []string {
	if !numbered {
		return []string{name}
	}
	names := make([]string, count)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%d", name, i+1)
	}
	return names
}

// forkOf is a new sandbox that begins from a snapshot of another. What only one
// sandbox can have is left out: host ports, the hostname, a revert. Its time to live
// begins anew.
func forkOf(sbx *v1.Sandbox, name, snap string) *v1.Sandbox {
	fork := &v1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: sbx.Namespace, Name: name, Labels: sbx.Labels},
		Spec:       *sbx.Spec.DeepCopy(),
	}
	fork.Spec.FromSnapshot = snap
	fork.Spec.PowerState = v1.PowerRunning
	fork.Spec.RevertTo = nil
	fork.Spec.CloudInit.Hostname = ""
	for i := range fork.Spec.Network.PortForwards {
		fork.Spec.Network.PortForwards[i].HostPort = 0
	}
	return fork
}

var errNoForks = errors.New("--count is 0 or less: say how many forks to make")

// alreadyThere says which fork's name is taken.
func alreadyThere(err error, name string) error {
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	return fmt.Errorf("there is a sandbox %q already: say another NAME for the forks", name)
}
