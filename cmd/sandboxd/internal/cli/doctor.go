package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/daemon"
	"sandboxd.dev/sandboxd/config"
	"sandboxd.dev/sandboxd/doctor"
	"sandboxd.dev/sandboxd/providers"
)

func (a *app) doctor() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out what is missing on this host",
		Long: `Look at the configuration, the daemon and the hypervisors, and say in plain words
what is missing and how to mend it. Nothing is changed. Exits with 1 when
something that is needed is missing. It takes the daemon's settings as flags too.`,
		GroupID: groupDaemon,
		Example: examples(`
sandboxd doctor
sudo sandboxd doctor --config /etc/sandboxd/config.yaml`),
		Args: noArgs,
	}
	s := addSettings(cmd)
	cmd.Flags().StringVarP(&format, "output", "o", "", "Form of the output: json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if format != "" && format != "json" {
			return fmt.Errorf("output %q is not json", format)
		}
		c, err := s.load()
		if err != nil {
			c, _ = config.Load(config.ThisHost(), "/dev/null", nil)
		}
		if cmd.Flags().Changed("socket") {
			a.socket = c.Socket
		}
		checks := doctor.Run(cmd.Context(), doctor.Options{
			Config: c, ConfigErr: err, Socket: a.socketPath(),
			Version: a.build.GitVersion, ServerVersion: a.serverVersion, ServerReady: a.serverReady, Authorities: a.authorities,
			Capacity:    func() providers.Finding { return daemon.CapacityCheck(c) },
			Hypervisors: daemon.Diagnoses(c),
		})
		if err := a.printChecks(checks, format); err != nil {
			return err
		}
		if !doctor.Sound(checks) {
			return &exitError{code: exitFailure}
		}
		return nil
	}
	return cmd
}

func (a *app) printChecks(checks []providers.Finding, format string) error {
	if format == "" {
		return doctor.Print(a.Out, checks)
	}
	type entry struct {
		Check    string             `json:"check"`
		Severity providers.Severity `json:"severity"`
		Message  string             `json:"message"`
		Fix      string             `json:"fix,omitempty"`
	}
	entries := make([]entry, len(checks))
	for i, c := range checks {
		entries[i] = entry(c)
	}
	encoder := json.NewEncoder(a.Out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(map[string]any{"checks": entries})
}

// authorities asks the daemon for its certificates.
func (a *app) authorities(ctx context.Context) (client.Authorities, error) {
	c, err := a.client()
	if err != nil {
		return client.Authorities{}, err
	}
	return c.Authorities(ctx)
}
