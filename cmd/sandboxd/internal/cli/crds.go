package cli

import (
	"io/fs"

	"github.com/spf13/cobra"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/cluster"
)

func (a *app) crds() *cobra.Command {
	var rbac bool
	cmd := &cobra.Command{
		Use:   "crds",
		Short: "Print what a Kubernetes cluster needs to keep the objects",
		Long: `Print the CustomResourceDefinitions of sandboxd's kinds, for a Kubernetes cluster
that is to keep the objects of a daemon (sandboxd serve --kubeconfig). With --rbac,
print a namespace, a service account and the roles with what a daemon may do there
instead. No daemon is asked.`,
		GroupID: groupDaemon,
		Example: examples(`
sandboxd crds | kubectl apply --server-side -f -
sandboxd crds --rbac | kubectl apply --server-side -f -`),
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if rbac {
				_, err := a.Out.Write([]byte(cluster.RBAC))
				return err
			}
			files, err := fs.Glob(v1.CRDs, "crds/*.yaml")
			if err != nil {
				return err
			}
			for _, file := range files {
				raw, err := fs.ReadFile(v1.CRDs, file)
				if err != nil {
					return err
				}
				if _, err := a.Out.Write(raw); err != nil { // each begins with "---"
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&rbac, "rbac", false, "Print the service account and its roles")
	return cmd
}
