package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
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

// changeSpec changes a sandbox, over the version that was read.
func changeSpec(ctx context.Context, c *client.Client, sbx *v1.Sandbox, f func(*v1.SandboxSpec)) error {
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
