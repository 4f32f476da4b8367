package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/kube"
)

// states is what the commands about a sandbox's state share: the daemon, and
// whether to wait.
type states struct {
	*app
	wait    bool
	timeout time.Duration
}

// waiting adds the flags about waiting, besides namespaced's.
func (s *states) waiting(cmd *cobra.Command, what string) *cobra.Command {
	cmd.Flags().BoolVar(&s.wait, "wait", false, "Wait until "+what)
	cmd.Flags().DurationVar(&s.timeout, "timeout", 10*time.Minute, "How long --wait may take")
	return s.namespaced(cmd)
}

// sandbox reads a sandbox by the name that was typed.
func (s *states) sandbox(ctx context.Context, typed string) (*client.Client, *v1.Sandbox, error) {
	key, err := s.sandboxKey(typed)
	if err != nil {
		return nil, nil, err
	}
	c, err := s.client()
	if err != nil {
		return nil, nil, err
	}
	sbx := &v1.Sandbox{}
	if err := c.Get(ctx, key, sbx); err != nil {
		return nil, nil, err
	}
	if !sbx.DeletionTimestamp.IsZero() {
		return nil, nil, fmt.Errorf("sandbox %s/%s is being deleted", sbx.Namespace, sbx.Name)
	}
	return c, sbx, nil
}

// change changes a sandbox, over the version that was read.
func change(ctx context.Context, c *client.Client, sbx *v1.Sandbox, f func(*v1.SandboxSpec)) error {
	before := sbx.DeepCopy()
	f(&sbx.Spec)
	return c.Patch(ctx, sbx, crclient.MergeFrom(before), crclient.FieldOwner(kube.FieldManager))
}

// ref names an object in output.
func ref(kind, name string) string {
	return strings.ToLower(kind) + "." + v1.GroupName + "/" + name
}

// until waits for objects of one kind, if that was asked for.
func (s *states) until(ctx context.Context, kind, namespace string, names []string, reached goal) error {
	if !s.wait {
		return nil
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	r, err := api.OfKind(v1.GroupVersion.WithKind(kind))
	if err != nil {
		return err
	}
	all := make([]awaited, len(names))
	for i, name := range names {
		all[i] = awaited{r, namespace, name, reached}
	}
	return s.waitFor(ctx, api, all, s.timeout, func(awaited) {})
}

// argsBetween refuses fewer or more arguments.
func argsBetween(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		names := strings.TrimPrefix(cmd.Use, cmd.Name()+" ")
		switch {
		case len(args) < least:
			return fmt.Errorf("say %s: see '%s --help'", names, cmd.CommandPath())
		case len(args) > most:
			return fmt.Errorf("%q is more than %s: see '%s --help'", args[most], names, cmd.CommandPath())
		}
		return nil
	}
}

// completeSandboxes completes the first argument, and what follows by others.
func (s *states) completeSandboxes(others ...cobra.CompletionFunc) cobra.CompletionFunc {
	first := func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return s.completeNames(cmd.Context(), &v1.SandboxList{}, nil)
	}
	all := append([]cobra.CompletionFunc{first}, others...)
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(all) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return all[len(args)](cmd, args, typed)
	}
}

// completeSnapshots completes the snapshots of the sandbox that was named.
func (s *states) completeSnapshots(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return s.completeNames(cmd.Context(), &v1.SandboxSnapshotList{}, crclient.MatchingFields{"spec.sandbox": args[0]})
}

// completionLimit is how long a shell waits for names.
const completionLimit = 2 * time.Second

func (s *states) completeNames(ctx context.Context, list crclient.ObjectList, chosen crclient.MatchingFields) ([]string, cobra.ShellCompDirective) {
	c, err := s.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(ctx, completionLimit)
	defer cancel()
	options := []crclient.ListOption{crclient.InNamespace(s.namespaceOr())}
	if chosen != nil {
		options = append(options, chosen)
	}
	var names []string
	if err := c.List(ctx, list, options...); err == nil {
		items, _ := meta.ExtractList(list)
		for _, o := range items {
			names = append(names, o.(metav1.Object).GetName())
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) snapshot() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "snapshot",
		Short:   "Keep the state of a sandbox",
		Long:    `Keep the state of a sandbox, to go back to it or to fork it. Snapshots are objects: "sandboxd get snapshots", "sandboxd delete snapshot NAME".`,
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
			if err := change(cmd.Context(), c, sbx, func(spec *v1.SandboxSpec) { spec.RevertTo = &to }); err != nil {
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

// fixed is a command that sets a sandbox's power state.
type fixed struct {
	name, short, long, example string
	power                      v1.PowerState
	// check refuses what the word does not fit; nil fits all.
	check func(sbx *v1.Sandbox) error
}

func (a *app) powerCommands() []*cobra.Command {
	var commands []*cobra.Command
	for _, f := range []fixed{
		{
			name: "start", power: v1.PowerRunning,
			short: "Start a sandbox",
			long: `Start a sandbox that is off or suspended. One that ended by itself and that its
restart policy leaves off is started again.`,
			example: "sandboxd start web --wait",
		},
		{
			name: "stop", power: v1.PowerStopped,
			short:   "Stop a sandbox",
			long:    `Ask a sandbox's guest to shut down, and power it off if it does not. Its disk is kept.`,
			example: "sandboxd stop web --wait",
		},
		{
			name: "suspend", power: v1.PowerSuspended,
			short: "Suspend a sandbox to disk",
			long: `Save a sandbox's memory and devices to disk. It uses no memory or CPU then, and
goes on where it was with "sandboxd resume".`,
			example: "sandboxd suspend web --wait",
			check: func(sbx *v1.Sandbox) error {
				if sbx.Spec.PowerState != v1.PowerStopped {
					return nil
				}
				return fmt.Errorf("sandbox %s/%s is to be off: there is nothing to suspend; start it first", sbx.Namespace, sbx.Name)
			},
		},
		{
			name: "resume", power: v1.PowerRunning,
			short:   "Let a suspended sandbox go on",
			long:    `Let a sandbox that was suspended go on where it was.`,
			example: "sandboxd resume web --wait",
			check: func(sbx *v1.Sandbox) error {
				if sbx.Spec.PowerState != v1.PowerStopped {
					return nil
				}
				return fmt.Errorf("sandbox %s/%s is stopped, not suspended: use 'sandboxd start %s'", sbx.Namespace, sbx.Name, sbx.Name)
			},
		},
	} {
		commands = append(commands, a.powerCommand(f))
	}
	return commands
}

func (a *app) powerCommand(f fixed) *cobra.Command {
	s := &states{app: a}
	cmd := &cobra.Command{
		Use: f.name + " SANDBOX", Short: f.short, Long: f.long + "\nIt sets spec.powerState; a manifest that sets it takes it over when it is applied.",
		GroupID: groupStates, Example: examples(f.example), Args: wantArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, sbx, err := s.sandbox(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if f.check != nil {
				if err := f.check(sbx); err != nil {
					return err
				}
			}
			if f.power == v1.PowerRunning && endedByItself(sbx) {
				if err := s.settleOff(cmd.Context(), c, sbx); err != nil {
					return err
				}
			}
			if err := change(cmd.Context(), c, sbx, func(spec *v1.SandboxSpec) { spec.PowerState = f.power }); err != nil {
				return err
			}
			fmt.Fprintf(s.Out, "%s set to %s\n", ref("Sandbox", sbx.Name), f.power)
			return s.until(cmd.Context(), "Sandbox", sbx.Namespace, []string{sbx.Name}, goalApplied)
		},
	}
	cmd.ValidArgsFunction = s.completeSandboxes()
	return s.waiting(cmd, "it is so")
}

// endedByItself tells whether a sandbox that is to run was left off.
func endedByItself(sbx *v1.Sandbox) bool {
	c := meta.FindStatusCondition(sbx.Status.Conditions, v1.ConditionPoweredOn)
	return sbx.Spec.PowerState == v1.PowerRunning && c != nil && c.Status == metav1.ConditionFalse &&
		(c.Reason == v1.ReasonExited || c.Reason == v1.ReasonCrashed)
}

// settleOff has the daemon see that a sandbox is off on purpose, so that the next
// start is no restart.
func (s *states) settleOff(ctx context.Context, c *client.Client, sbx *v1.Sandbox) error {
	if err := change(ctx, c, sbx, func(spec *v1.SandboxSpec) { spec.PowerState = v1.PowerStopped }); err != nil {
		return err
	}
	always := *s
	always.wait = true
	if err := always.until(ctx, "Sandbox", sbx.Namespace, []string{sbx.Name}, goalApplied); err != nil {
		return err
	}
	return c.Get(ctx, crclient.ObjectKeyFromObject(sbx), sbx)
}

var errNoForks = errors.New("--count is 0 or less: say how many forks to make")

// alreadyThere says which fork's name is taken.
func alreadyThere(err error, name string) error {
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	return fmt.Errorf("there is a sandbox %q already: say another NAME for the forks", name)
}
