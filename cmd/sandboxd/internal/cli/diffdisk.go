package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/disk/change"
)

// diskDiffer is one run of diff-disk.
type diskDiffer struct {
	*app
	client.DiskDiffOptions
	format  string
	content string
}

func (a *app) diffDisk() *cobra.Command {
	d := &diskDiffer{app: a}
	cmd := &cobra.Command{
		Use:   "diff-disk SANDBOX",
		Short: "Show which files of a sandbox's disk have changed",
		Long: `Show which files of a sandbox were added, changed or removed since it was cloned, or
since a snapshot. The disk is read on the host, in a process without rights: the
guest takes no part in it and cannot hide anything. The sandbox must be stopped or
suspended, or both states snapshots. File systems of the kinds ext2, ext3 and ext4
are read.

Each line has what became of the file (A added, M changed, D removed, T touched),
its type and mode, its owner, its size, its name, and what of it has changed. Names
are escaped as in Go: \xNN for a byte that is not printable, \\ for a backslash.

Exits with 0 when there are no differences, with 1 when there are, and with 2 when
it fails or something could not be compared.`,
		GroupID: groupGuests,
		Example: examples(`
sandboxd diff-disk web
sandboxd diff-disk web --from before-install -o json
sandboxd diff-disk web --from before --to after
sandboxd diff-disk web --content /etc/passwd`),
		Args: wantArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			differ, err := d.run(cmd.Context(), args[0])
			switch {
			case err != nil:
				return &exitError{exitDiffFailed, err}
			case differ:
				return &exitError{code: exitFailure}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&d.From, "from", "", `Snapshot to compare with (default "golden", which is what the sandbox was cloned from)`)
	cmd.Flags().StringVar(&d.To, "to", "", "Snapshot to compare (default the disk as it is now)")
	cmd.Flags().BoolVar(&d.Touched, "touched", false, "Tell of files of which only the time of the last change differs, too")
	cmd.Flags().StringVarP(&d.format, "output", "o", "", "Form of the output: json")
	cmd.Flags().StringVar(&d.content, "content", "", "Show how the contents of this text file differ; its name as it is told without this flag")
	_ = cmd.RegisterFlagCompletionFunc("from", a.completeSnapshots)
	_ = cmd.RegisterFlagCompletionFunc("to", a.completeSnapshots)
	cmd.ValidArgsFunction = a.completeSandboxes()
	return a.namespaced(cmd)
}

func (d *diskDiffer) run(ctx context.Context, name string) (bool, error) {
	if d.format != "" && d.format != "json" {
		return false, fmt.Errorf("output %q is not json", d.format)
	}
	key, err := d.sandboxKey(name)
	if err != nil {
		return false, err
	}
	c, err := d.client()
	if err != nil {
		return false, err
	}
	if d.content != "" {
		return d.showContent(ctx, c, key)
	}
	if d.format == "json" {
		return d.document(ctx, c, key)
	}
	return d.lines(ctx, c, key)
}

// errIncomplete: the notes say what is missing.
var errIncomplete = errors.New("not everything could be compared, as told above")

func (d *diskDiffer) lines(ctx context.Context, c *client.Client, key types.NamespacedName) (bool, error) {
	differ, incomplete := false, false
	err := c.DiskDiff(ctx, key, d.DiskDiffOptions, func(l change.Line) error {
		if l.Note != nil {
			incomplete = incomplete || l.Note.Incomplete
			fmt.Fprintln(d.Err, "note: "+printable(l.Note.Message))
		}
		if l.Change == nil {
			return nil
		}
		differ = true
		_, err := fmt.Fprintln(d.Out, printable(changeLine(l.Change)))
		return err
	})
	if err == nil && incomplete {
		err = errIncomplete
	}
	return differ, err
}

// letters stand for what became of a file.
var letters = map[change.Op]string{change.Added: "A", change.Changed: "M", change.Removed: "D", change.Touched: "T"}

// typeLetters are those of ls.
var typeLetters = map[string]string{
	"file": "-", "directory": "d", "symlink": "l", "character-device": "c", "block-device": "b", "fifo": "p", "socket": "s",
}

// changeLine is one change for people.
func changeLine(c *change.Change) string {
	f := c.To
	if f == nil {
		f = c.From
	}
	if f == nil {
		f = &change.File{}
	}
	kind := typeLetters[f.Type]
	if kind == "" {
		kind = "?"
	}
	name := c.Path
	if c.Partition != 0 {
		name = fmt.Sprintf("[partition %d]%s", c.Partition, name)
	}
	if f.Target != "" {
		name += " -> " + f.Target
	}
	line := fmt.Sprintf("%s %s%s %d:%d %8d %s", letters[c.Op], kind, f.Mode, f.UID, f.GID, f.Size, name)
	if c.Op == change.Changed && c.From != nil {
		line += " (" + strings.Join(aspectsOf(c), ", ") + ")"
	}
	return line
}

// aspectsOf tells what has changed, and what it was where that is short.
func aspectsOf(c *change.Change) []string {
	var list []string
	for _, a := range c.What {
		text := string(a)
		switch a {
		case change.Type:
			text += " was " + c.From.Type
		case change.Mode:
			text += " was " + c.From.Mode
		case change.Owner:
			text += fmt.Sprintf(" was %d:%d", c.From.UID, c.From.GID)
		case change.Size:
			text += fmt.Sprintf(" was %d", c.From.Size)
		case change.Target:
			text += " was " + c.From.Target
		case change.MTime:
			continue // follows from the others
		}
		list = append(list, text)
	}
	return list
}

// diskDocument is the whole answer as JSON.
type diskDocument struct {
	Sandbox   string          `json:"sandbox"`
	Namespace string          `json:"namespace"`
	From      string          `json:"from"`
	To        string          `json:"to,omitempty"`
	Changes   []change.Change `json:"changes"`
	Notes     []change.Note   `json:"notes"`
}

func (d *diskDiffer) document(ctx context.Context, c *client.Client, key types.NamespacedName) (bool, error) {
	doc := diskDocument{
		Sandbox: key.Name, Namespace: key.Namespace, From: d.From, To: d.To, Changes: []change.Change{}, Notes: []change.Note{},
	}
	if doc.From == "" {
		doc.From = "golden"
	}
	incomplete := false
	err := c.DiskDiff(ctx, key, d.DiskDiffOptions, func(l change.Line) error {
		if l.Change != nil {
			doc.Changes = append(doc.Changes, *l.Change)
		}
		if l.Note != nil {
			doc.Notes = append(doc.Notes, *l.Note)
			incomplete = incomplete || l.Note.Incomplete
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	e := json.NewEncoder(d.Out)
	e.SetIndent("", "    ")
	e.SetEscapeHTML(false)
	if err := e.Encode(doc); err != nil {
		return false, err
	}
	if incomplete {
		err = errors.New("not everything could be compared: see the notes")
	}
	return len(doc.Changes) > 0, err
}

// showContent shows how a text file differs.
func (d *diskDiffer) showContent(ctx context.Context, c *client.Client, key types.NamespacedName) (bool, error) {
	name, err := change.Unescape(d.content)
	if err != nil {
		return false, err
	}
	count := &counter{w: d.Out}
	err = c.DiskContent(ctx, key, d.DiskDiffOptions, name, count)
	return count.n > 0, err
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += n
	return n, err
}
