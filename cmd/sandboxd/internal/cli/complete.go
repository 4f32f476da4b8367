package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/client"
)

// completionLimit is how long a shell waits for names.
const completionLimit = 2 * time.Second

// completionTypes are the types of objects that are offered; others can be typed.
var completionTypes = []string{"sandboxes", "sandboxsnapshots", "goldenimages", "namespaces", "secrets", "configmaps", "events"}

// completeSandboxes completes the first argument, and what follows by others.
func (a *app) completeSandboxes(others ...cobra.CompletionFunc) cobra.CompletionFunc {
	first := func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return a.completeNames(cmd.Context(), &v1.SandboxList{}, nil)
	}
	return inTurn(append([]cobra.CompletionFunc{first}, others...)...)
}

// completeImages completes the first argument, and what follows by others.
func (a *app) completeImages(others ...cobra.CompletionFunc) cobra.CompletionFunc {
	first := func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return a.completeNames(cmd.Context(), &v1.GoldenImageList{}, nil)
	}
	return inTurn(append([]cobra.CompletionFunc{first}, others...)...)
}

// completeFiles leaves an argument to the shell.
func completeFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

// inTurn completes each argument by its own function, and none after the last.
func inTurn(all ...cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(all) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return all[len(args)](cmd, args, typed)
	}
}

// completeSnapshots completes the snapshots of the sandbox that was named.
func (a *app) completeSnapshots(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeNames(cmd.Context(), &v1.SandboxSnapshotList{}, crclient.MatchingFields{"spec.sandbox": args[0]})
}

// completeNamespaces completes a namespace.
func (a *app) completeNamespaces(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeNames(cmd.Context(), &corev1.NamespaceList{}, nil)
}

func (a *app) completeNames(ctx context.Context, list crclient.ObjectList, chosen crclient.MatchingFields) ([]string, cobra.ShellCompDirective) {
	c, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.listNames(ctx, c, list, chosen), cobra.ShellCompDirectiveNoFileComp
}

func (a *app) listNames(ctx context.Context, c *client.Client, list crclient.ObjectList, chosen crclient.MatchingFields) []string {
	ctx, cancel := context.WithTimeout(ctx, completionLimit)
	defer cancel()
	var options []crclient.ListOption
	switch list.(type) {
	case *v1.GoldenImageList, *corev1.NamespaceList: // of no namespace
	default:
		options = append(options, crclient.InNamespace(a.namespaceOr()))
	}
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
	return names
}

// completeObjects completes the forms of parseSelection: TYPE NAME… and TYPE/NAME….
func (a *app) completeObjects(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	kind, _, slashed := strings.Cut(typed, "/")
	switch {
	case slashed:
		names := a.namesOf(cmd.Context(), kind)
		for i := range names {
			names[i] = kind + "/" + names[i]
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	case len(args) == 0:
		return completionTypes, cobra.ShellCompDirectiveNoFileComp
	case strings.Contains(args[0], "/"):
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	left := slices.DeleteFunc(a.namesOf(cmd.Context(), args[0]), func(name string) bool { return slices.Contains(args[1:], name) })
	return left, cobra.ShellCompDirectiveNoFileComp
}

// namesOf are the names of the objects of a type, as far as they are quickly found.
func (a *app) namesOf(ctx context.Context, kind string) []string {
	ctx, cancel := context.WithTimeout(ctx, completionLimit)
	defer cancel()
	api, err := a.api()
	if err != nil {
		return nil
	}
	found, err := api.Find(kind)
	if err != nil || len(found) != 1 {
		return nil
	}
	list, err := api.Objects(found[0], a.namespaceOr()).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil
	}
	var names []string
	for _, o := range list.Items {
		names = append(names, o.GetName())
	}
	return names
}

// completeCopy completes a side of a copy: a sandbox, or a file of this host.
func (a *app) completeCopy(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if strings.ContainsAny(typed, "./:") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	names, _ := a.completeNames(cmd.Context(), &v1.SandboxList{}, nil)
	var sides []string
	for _, name := range names {
		if strings.HasPrefix(name, typed) {
			sides = append(sides, name+":/")
		}
	}
	return sides, cobra.ShellCompDirectiveNoSpace // files where there is no such sandbox
}

// completeFields completes TYPE and TYPE.FIELD… of explain.
func completeFields(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	definitions, err := readDefinitions(v1.CRDs)
	if len(args) > 0 || err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	path := strings.Split(typed, ".")
	var all []string
	for _, crd := range definitions {
		kind := crd.Spec.Names.Singular
		if len(path) == 1 {
			all = append(all, kind)
			continue
		}
		if path[0] != kind {
			continue
		}
		field := *crd.Spec.Versions[0].Schema.OpenAPIV3Schema
		for _, name := range path[1 : len(path)-1] {
			field = fieldsOf(field)[name]
		}
		for name := range fieldsOf(field) {
			all = append(all, strings.Join(append(slices.Clone(path[:len(path)-1]), name), "."))
		}
	}
	slices.Sort(all)
	return all, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// offer lets a shell complete a flag's value by fixed words.
func offer(cmd *cobra.Command, flag string, words ...string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)) // its only error is a flag that is not there
}
