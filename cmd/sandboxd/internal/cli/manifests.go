package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/printers"

	"sandboxd.dev/sandboxd/client"
)

func (a *app) manifests() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "manifests",
		Short: "What the daemon makes of its directory of manifests",
		Long: `Tell what became of the directory of manifests that the daemon applies all the
time (sandboxd serve --manifests), or have it look there now. See docs/gitops.md.`,
		Example: examples(`
# What became of the directory
sandboxd manifests status

# Have it looked at now, as after a git pull
sandboxd manifests sync`),
		GroupID: groupDaemon,
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		a.aboutManifests("status", "Tell what came of the last look at the directory",
			`Tell what came of the last look at the directory: its commit, what is wrong with
which file, what is held back. The exit code is 1 when anything is wrong.`,
			(*client.Client).Manifests),
		a.aboutManifests("sync", "Look at the directory and apply it now",
			`Have the daemon look at the directory and apply it now, and tell what came of it,
as after a git pull. It does so by itself each manifests.interval. The exit code
is 1 when anything is wrong.`,
			(*client.Client).SyncManifests),
	)
	return cmd
}

func (a *app) aboutManifests(name, short, long string, ask func(*client.Client, context.Context) (client.Manifests, error)) *cobra.Command {
	var format string
	cmd := a.connected(&cobra.Command{
		Use: name, Short: short, Long: long,
		Example: examples("sandboxd manifests " + name),
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "" && format != "json" {
				return fmt.Errorf("output %q is not json", format)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			m, err := ask(c, cmd.Context())
			if err != nil {
				return err
			}
			if err := a.printManifests(m, format); err != nil {
				return err
			}
			if m.Failing > 0 {
				return fmt.Errorf("%s: %s", m.Directory, plural(m.Failing, "failure", "failures"))
			}
			return nil
		},
	})
	cmd.Flags().StringVarP(&format, "output", "o", "", "Form of the output: json")
	return cmd
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func (a *app) printManifests(m client.Manifests, format string) error {
	if format == "json" {
		encoder := json.NewEncoder(a.Out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(m)
	}
	w := printers.GetNewTabWriter(a.Out)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, value)
		}
	}
	row("Directory:", m.Directory)
	row("Label:", "sandboxd.dev/manifests="+m.ID)
	row("Revision:", m.Revision)
	row("Problem:", m.Problem)
	row("Checked:", ago(m.CheckedAt))
	row("Succeeded:", ago(m.SucceededAt))
	row("Objects:", fmt.Sprintf("%d in %s, %d as they say", m.Objects, plural(len(m.Files), "file", "files"), m.Settled))
	row("Pruning:", pruning(m.Pruning))
	for _, kept := range m.Pruning.Kept {
		row("Kept:", kept)
	}
	for _, o := range m.Waiting {
		row("Waiting:", o.Object+": "+o.Reason)
	}
	for _, f := range m.Files {
		for _, text := range f.Errors {
			row("Error:", text)
		}
	}
	for _, text := range m.Errors {
		row("Error:", text)
	}
	for _, text := range m.Notes {
		row("Note:", text)
	}
	return w.Flush()
}

func ago(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return duration.HumanDuration(max(0, time.Since(*t))) + " ago"
}

func pruning(p client.ManifestPruning) string {
	switch {
	case p.Held != "" && p.Until != nil:
		return fmt.Sprintf("held: %s (in %s)", p.Held, duration.HumanDuration(max(0, time.Until(*p.Until))))
	case p.Held != "":
		return fmt.Sprintf("held: %s left the directory, and %s", plural(p.Count, "object", "objects"), p.Held)
	case p.Enabled:
		return "on"
	default:
		return "off"
	}
}
