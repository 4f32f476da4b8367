package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/kube"
)

// selection is what the arguments of a command name: objects of one resource,
// those named or, without names, all.
type selection struct {
	kube.Resource
	names []string
}

// parseSelection reads arguments of the forms
//
//	TYPE[,TYPE…]         all of some types
//	TYPE NAME…           some of one type
//	TYPE/NAME…           some of several types
func parseSelection(args []string, find func(string) ([]kube.Resource, error)) ([]selection, error) {
	if len(args) == 0 {
		return nil, errors.New("say which type of objects, such as sandboxes or goldenimages")
	}
	if strings.Contains(args[0], "/") {
		return parseSlashed(args, find)
	}
	var all []selection
	for name := range strings.SplitSeq(args[0], ",") {
		if name == "" {
			return nil, fmt.Errorf("%q names an empty type", args[0])
		}
		found, err := find(name)
		if err != nil {
			return nil, err
		}
		for _, r := range found {
			all = append(all, selection{Resource: r})
		}
	}
	if len(args) == 1 {
		return all, nil
	}
	if len(all) != 1 {
		return nil, fmt.Errorf("names can follow one type only, not %q: use TYPE/NAME for several", args[0])
	}
	for _, name := range args[1:] {
		if strings.Contains(name, "/") {
			return nil, fmt.Errorf("%q follows a type: use either TYPE NAME or TYPE/NAME", name)
		}
	}
	all[0].names = args[1:]
	return all, nil
}

func parseSlashed(args []string, find func(string) ([]kube.Resource, error)) ([]selection, error) {
	var all []selection
	for _, arg := range args {
		typeName, name, ok := strings.Cut(arg, "/")
		if !ok || typeName == "" || name == "" || strings.Contains(name, "/") {
			return nil, fmt.Errorf("%q is not of the form TYPE/NAME, as the first argument is", arg)
		}
		found, err := find(typeName)
		if err != nil {
			return nil, err
		}
		if len(found) != 1 {
			return nil, fmt.Errorf("%q stands for several types: name one", typeName)
		}
		all = append(all, selection{found[0], []string{name}})
	}
	return all, nil
}

// chooser are the flags that choose objects.
type chooser struct {
	all           bool // in all namespaces
	labels        string
	fields        string
	ignoreMissing bool
}

func (c *chooser) add(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&c.all, "all-namespaces", "A", false, "Objects of all namespaces")
	cmd.Flags().StringVarP(&c.labels, "selector", "l", "", "Only objects with these labels, such as app=web,tier!=test")
	cmd.Flags().StringVar(&c.fields, "field-selector", "", "Only objects with these fields, such as metadata.name=web")
}

func (c *chooser) addIgnore(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.ignoreMissing, "ignore-not-found", false, "Do not fail when a named object does not exist")
}

// check refuses names together with flags that choose among many.
func (c *chooser) check(all []selection) error {
	for _, s := range all {
		switch {
		case len(s.names) == 0:
		case c.labels != "":
			return errors.New("a selector and names exclude one another")
		case c.all && s.Namespaced:
			return errors.New("an object cannot be named across all namespaces: say which with -n")
		}
	}
	return nil
}

// query of the objects of a selection; name may be empty.
func (c *chooser) query(s selection, namespace, name string) kube.Query {
	q := kube.Query{Name: name, LabelSelector: c.labels, FieldSelector: c.fields}
	if s.Namespaced && !c.all {
		q.Namespace = namespace
	}
	return q
}
