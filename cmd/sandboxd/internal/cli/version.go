package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/version"
	"sigs.k8s.io/yaml"

	"sandboxd.dev/sandboxd/apiserver"
)

// versions are what version prints.
type versions struct {
	ClientVersion version.Info  `json:"clientVersion"`
	ServerVersion *version.Info `json:"serverVersion,omitempty"`
}

func (a *app) version() *cobra.Command {
	var clientOnly bool
	var format string
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Show the versions of this program and of the daemon",
		GroupID: groupOther,
		Example: examples(`sandboxd version --client`),
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versions{ClientVersion: a.build}
			var unreachable error
			if !clientOnly {
				v.ServerVersion, unreachable = a.serverVersion(cmd.Context())
			}
			if err := a.printVersions(v, format); err != nil {
				return err
			}
			return unreachable
		},
	}
	cmd.Flags().BoolVar(&clientOnly, "client", false, "Do not ask the daemon")
	cmd.Flags().StringVarP(&format, "output", "o", "", "Form of the output: yaml or json")
	return a.connected(cmd)
}

// serverVersion asks the daemon for its version: its own, not that of the
// Kubernetes API that it serves.
func (a *app) serverVersion(ctx context.Context) (*version.Info, error) {
	api, err := a.api()
	if err != nil {
		return nil, err
	}
	raw, err := api.ServerVersion(ctx)
	if err != nil {
		return nil, err
	}
	served := &apiserver.ServedVersion{}
	if err := json.Unmarshal(raw, served); err != nil {
		return nil, err
	}
	v := served.Info
	if served.Sandboxd != "" { // else it is another server
		v.Major, v.Minor, v.GitVersion = "", "", served.Sandboxd
	}
	return &v, nil
}

// serverReady asks the daemon whether it looks after machines.
func (a *app) serverReady(ctx context.Context) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	return api.ServerReady(ctx)
}

func (a *app) printVersions(v versions, format string) error {
	switch format {
	case "":
		fmt.Fprintf(a.Out, "Client Version: %s\n", v.ClientVersion.GitVersion)
		if v.ServerVersion != nil {
			fmt.Fprintf(a.Out, "Server Version: %s\n", v.ServerVersion.GitVersion)
		}
		return nil
	case "json":
		encoder := json.NewEncoder(a.Out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(v)
	case "yaml":
		raw, err := yaml.Marshal(v)
		if err == nil {
			_, err = a.Out.Write(raw)
		}
		return err
	}
	return fmt.Errorf("output %q is not one of yaml and json", format)
}
