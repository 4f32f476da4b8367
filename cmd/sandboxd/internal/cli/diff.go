package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// exitDiffFailed is the exit code of a diff that failed: 1 means differences.
const exitDiffFailed = 2

func (a *app) diff() *cobra.Command {
	p := &applier{app: a}
	cmd := &cobra.Command{
		Use:   "diff -f FILE|DIRECTORY|URL|-",
		Short: "Show what apply would change",
		Long: `Show the differences between the objects there are and what they would be if the
manifests were applied. The daemon works it out; nothing is changed. Exits with 0
when there are none, with 1 when there are, and with 2 when it fails.`,
		GroupID: groupObjects,
		Example: examples(`sandboxd diff -f manifests/ -R`),
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			differ, err := p.diffAll(cmd.Context())
			switch {
			case err != nil:
				return &exitError{exitDiffFailed, err}
			case differ:
				return &exitError{code: exitFailure}
			}
			return nil
		},
	}
	p.files.add(cmd)
	cmd.Flags().BoolVar(&p.force, "force-conflicts", false, "Take over fields that others have set")
	return a.namespaced(cmd)
}

func (p *applier) diffAll(ctx context.Context) (differ bool, err error) {
	api, err := p.api()
	if err != nil {
		return false, err
	}
	targets, err := p.read(ctx, p.app, api)
	if err != nil {
		return false, err
	}
	outcomes, err := p.try(ctx, api, targets)
	if err != nil {
		return false, err
	}
	for i, o := range outcomes {
		text, err := unified(targets[i].Ref(targets[i].GetName()), o)
		if err != nil {
			return differ, err
		}
		if text != "" {
			differ = true
			if err := p.printDiff(text); err != nil {
				return differ, err
			}
		}
	}
	return differ, nil
}

// unified is the difference between two versions of an object, in the unified
// form; empty when there is none.
func unified(ref string, o outcome) (string, error) {
	before, err := manifestText(o.before)
	if err != nil {
		return "", err
	}
	after, err := manifestText(o.object)
	if err != nil {
		return "", err
	}
	if before == after {
		return "", nil
	}
	return difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: difflib.SplitLines(before), B: difflib.SplitLines(after),
		FromFile: ref + " (live)", ToFile: ref + " (applied)", Context: 3,
	})
}

// manifestText is an object as YAML, without what the server keeps about it.
func manifestText(u *unstructured.Unstructured) (string, error) {
	if u == nil {
		return "", nil
	}
	raw, err := yaml.Marshal(essence(u))
	return string(raw), err
}

// printDiff prints a difference, in colours on a terminal.
func (p *applier) printDiff(text string) error {
	if !isTerminal(p.Out) {
		_, err := io.WriteString(p.Out, text)
		return err
	}
	var errs []error
	for line := range strings.Lines(text) {
		colour := ""
		switch {
		case strings.HasPrefix(line, "+++"), strings.HasPrefix(line, "---"):
			colour = "\x1b[1m"
		case strings.HasPrefix(line, "+"):
			colour = "\x1b[32m"
		case strings.HasPrefix(line, "-"):
			colour = "\x1b[31m"
		case strings.HasPrefix(line, "@@"):
			colour = "\x1b[36m"
		}
		reset := ""
		if colour != "" {
			reset = "\x1b[0m"
		}
		_, err := fmt.Fprintf(p.Out, "%s%s%s\n", colour, printable(strings.TrimSuffix(line, "\n")), reset)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
