package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/printers"

	"sandboxd.dev/sandboxd/client"
)

func (a *app) gc() *cobra.Command {
	var dryRun, all bool
	var format string
	cmd := a.connected(&cobra.Command{
		Use:   "gc",
		Short: "Look for left-over machines, disks, networks and files now",
		Long: `Have the daemon look for what belongs to no object any more: machines, disks,
seeds, networks, saved states and files. It does so by itself regularly (gc.interval).
What is left over is removed once it has been seen so twice, over gc.grace at least;
what is not surely this daemon's is told, and never touched. With --dry-run
nothing is removed or remembered.`,
		GroupID: groupDaemon,
		Example: examples(`
# What would be removed, and why
sandboxd gc --dry-run

# Everything that the daemon has on the hypervisor
sandboxd gc --dry-run --all`),
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "" && format != "json" {
				return fmt.Errorf("output %q is not json", format)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			ask := c.CollectGarbage
			if dryRun {
				ask = c.PreviewGarbage
			}
			found, err := ask(cmd.Context())
			if err != nil {
				return err
			}
			if !all {
				found.Items = slices.DeleteFunc(found.Items, func(i client.GarbageItem) bool { return i.Verdict == "Keep" })
			}
			if err := a.printGarbage(found, format, dryRun); err != nil {
				return err
			}
			return found.Err()
		},
	})
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "Only print what would be done")
	cmd.Flags().BoolVar(&all, "all", false, "Print what is in use too")
	cmd.Flags().StringVarP(&format, "output", "o", "", "Form of the output: json")
	return cmd
}

func (a *app) printGarbage(g client.Garbage, format string, dryRun bool) error {
	if format == "json" {
		encoder := json.NewEncoder(a.Out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(g)
	}
	if len(g.Items) == 0 {
		if len(g.Errors) == 0 {
			fmt.Fprintln(a.Out, "nothing is left over")
		}
		return nil
	}
	words := map[string]string{"Keep": "keep", "Suspect": "wait", "Remove": "removed", "Report": "leave alone"}
	if dryRun {
		words["Remove"] = "remove"
	}
	w := printers.GetNewTabWriter(a.Out)
	fmt.Fprintln(w, "ACTION\tPROVIDER\tKIND\tRESOURCE\tREASON")
	for _, i := range g.Items {
		fmt.Fprintln(w, strings.Join([]string{words[i.Verdict], i.Provider, i.Kind, i.Resource, i.Reason}, "\t"))
	}
	return w.Flush()
}
