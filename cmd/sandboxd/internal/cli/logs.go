package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/client"
)

func (a *app) logs() *cobra.Command {
	var o client.LogOptions
	var tail int64
	var raw bool
	cmd := &cobra.Command{
		Use:   "logs SANDBOX|goldenimage/NAME",
		Short: "Show the serial console of a sandbox, or the log of an image's build",
		Long: `Show what a sandbox's guest has printed on its serial console since the machine
was made, or what the provision steps of a golden image printed when it was last
built. On a terminal, control characters are taken out, because a guest could
steer the terminal with them; --raw leaves them in.`,
		GroupID: groupGuests,
		Example: examples(`
sandboxd logs web --tail 20
sandboxd logs web -f
sandboxd logs goldenimage/debian -f`),
		Args: wantArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			image, isImage := splitImage(args[0])
			var key types.NamespacedName
			if !isImage {
				var err error
				if key, err = a.sandboxKey(args[0]); err != nil {
					return err
				}
			}
			if tail < -1 {
				return fmt.Errorf("--tail %d is not a number of lines", tail)
			}
			if tail >= 0 {
				o.TailLines = &tail
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			out := a.Out
			if isTerminal(out) && !raw {
				out = &tamed{w: out}
			}
			if isImage {
				err = c.BuildLog(cmd.Context(), image, o, out)
			} else {
				err = c.Log(cmd.Context(), key, o, out)
			}
			if o.Follow && errors.Is(err, context.Canceled) {
				return nil // the user has seen enough
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&o.Follow, "follow", "f", false, "Go on showing what is printed")
	cmd.Flags().Int64Var(&tail, "tail", -1, "Begin with so many lines from the end (default: all)")
	cmd.Flags().Lookup("tail").DefValue = "0" // shown as none: the usage says it in words
	cmd.Flags().BoolVar(&raw, "raw", false, "Leave control characters in on a terminal")
	cmd.ValidArgsFunction = a.completeSandboxes()
	return a.namespaced(cmd)
}

// splitImage takes a name such as goldenimage/debian apart.
func splitImage(arg string) (name string, ok bool) {
	kind, name, ok := strings.Cut(arg, "/")
	switch strings.ToLower(kind) {
	case "goldenimage", "goldenimages", "gi", "goldenimage.sandboxd.dev", "goldenimages.sandboxd.dev":
		return name, ok && name != "" && !strings.Contains(name, "/")
	default:
		return "", false
	}
}

// tamed passes text on without the characters that steer a terminal: controls of 7
// bits and of 8, and those that turn the direction of writing.
type tamed struct {
	w       io.Writer
	partial []byte // of a character that has not come whole
}

// Write implements io.Writer.
func (t *tamed) Write(p []byte) (int, error) {
	text := append(t.partial, p...)
	clean := make([]byte, 0, len(text))
	for len(text) > 0 && utf8.FullRune(text) {
		c, size := utf8.DecodeRune(text)
		text = text[size:]
		if c == '\n' || c == '\t' || c == '\r' || !steers(c) {
			clean = utf8.AppendRune(clean, c) // what is no UTF-8 becomes U+FFFD
		}
	}
	t.partial = append([]byte(nil), text...)
	if _, err := t.w.Write(clean); err != nil {
		return 0, err
	}
	return len(p), nil
}
