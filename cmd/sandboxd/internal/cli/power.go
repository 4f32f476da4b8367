package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/client"
)

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
			if err := changeSpec(cmd.Context(), c, sbx, func(spec *v1.SandboxSpec) { spec.PowerState = f.power }); err != nil {
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
	if err := changeSpec(ctx, c, sbx, func(spec *v1.SandboxSpec) { spec.PowerState = v1.PowerStopped }); err != nil {
		return err
	}
	always := *s
	always.wait = true
	if err := always.until(ctx, "Sandbox", sbx.Namespace, []string{sbx.Name}, goalApplied); err != nil {
		return err
	}
	return c.Get(ctx, crclient.ObjectKeyFromObject(sbx), sbx)
}
