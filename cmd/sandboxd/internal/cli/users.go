package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/printers"

	"sandboxd.dev/sandboxd/client"
)

func (a *app) users() *cobra.Command {
	var format string
	cmd := a.connected(&cobra.Command{
		Use:   "users",
		Short: "List who may come in over TCP, and revoke it",
		Long: `List the credentials that "sandboxd kubeconfig" gave. Those that are over stay in
the list for a month.`,
		GroupID: groupAccess,
		Example: examples(`
# Who has a certificate or a token, until when, and as what
sandboxd users

# Take back all that alice has, and her role; what she has under way ends
sandboxd users revoke alice

# Take back one token
sandboxd users revoke 1f0c9d7e5b3a2846`),
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "" && format != "json" {
				return fmt.Errorf("output %q is not json", format)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			list, err := c.Users(cmd.Context())
			if err != nil {
				return err
			}
			return a.printUsers(list, format)
		},
	})
	cmd.Flags().StringVarP(&format, "output", "o", "", "Form of the output: json")
	cmd.AddCommand(a.connected(&cobra.Command{
		Use:   "revoke USER|ID",
		Short: "Take back all credentials of a user with his role, or one credential",
		Args:  wantArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			gone, err := c.RevokeUser(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if len(gone) == 0 {
				fmt.Fprintf(a.Out, "roles of user %s revoked, who had no credential any more\n", args[0])
			}
			for _, g := range gone {
				fmt.Fprintf(a.Out, "%s %s of user %s revoked\n", strings.ToLower(g.Kind), g.ID, g.User)
			}
			return nil
		},
	}))
	return cmd
}

func (a *app) printUsers(list []client.Credential, format string) error {
	if format == "json" {
		encoder := json.NewEncoder(a.Out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(a.Err, "nobody was given a credential")
		return nil
	}
	w := printers.GetNewTabWriter(a.Out)
	fmt.Fprintln(w, "USER\tGROUPS\tROLES\tKIND\tID\tEXPIRES")
	for _, c := range list {
		expires := c.Expires.UTC().Format(time.RFC3339)
		if !time.Now().Before(c.Expires) {
			expires += " (over)"
		}
		fmt.Fprintln(w, strings.Join([]string{
			c.User, listed(c.Groups), listed(c.Roles), c.Kind, c.ID, expires,
		}, "\t"))
	}
	return w.Flush()
}

func listed(words []string) string {
	if len(words) == 0 {
		return "<none>"
	}
	return strings.Join(words, ",")
}

func (a *app) pki() *cobra.Command {
	cmd := a.connected(&cobra.Command{
		Use:   "pki",
		Short: "Tell of the daemon's certificates, and rotate its authority",
		Long: `Print the certificates that clients on TCP are to trust, and until when they are
valid. The certificate that the daemon shows is renewed by itself.`,
		GroupID: groupAccess,
		Example: examples(`
# What clients are to trust
sandboxd pki > ca.crt

# Put a new authority beside the old one, which stays trusted for 30 days:
# write all kubeconfigs anew by then
sandboxd pki rotate

# A key was stolen: everything that was signed before is void at once
sandboxd pki rotate --overlap 0s`),
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			found, err := c.Authorities(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprint(a.Out, found.Authorities)
			a.tellAuthorities(found)
			return nil
		},
	})
	var overlap time.Duration
	rotate := a.connected(&cobra.Command{
		Use:   "rotate",
		Short: "Put a new authority in the place of the old one",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			found, err := c.RotateAuthorities(cmd.Context(), overlap)
			if err != nil {
				return err
			}
			a.tellAuthorities(found)
			fmt.Fprintln(a.Err, `write the kubeconfigs anew: "sandboxd users" lists whose there are`)
			return nil
		},
	})
	rotate.Flags().DurationVar(&overlap, "overlap", 30*24*time.Hour, "How long the old authority stays trusted; 0s: not at all")
	cmd.AddCommand(rotate)
	return cmd
}

func (a *app) tellAuthorities(found client.Authorities) {
	day := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	fmt.Fprintf(a.Err, "the authority is valid until %s, the daemon's certificate until %s\n", day(found.Expires), day(found.ServingExpires))
	if found.PreviousUntil != nil {
		fmt.Fprintf(a.Err, "the authority before it is trusted until %s\n", day(*found.PreviousUntil))
	}
}
