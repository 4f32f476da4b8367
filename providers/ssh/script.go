package ssh

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"io"
	"strings"

	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/guestscript"
)

//go:embed scripts/*.sh
var scripts embed.FS

var (
	execScript  = guestscript.Load(scripts, "exec")
	shellScript = guestscript.Load(scripts, "shell")
	fillScript  = guestscript.Load(scripts, "fill")
	killScript  = guestscript.Load(scripts, "stop") + guestscript.Kill

	terminalScript = guestscript.Load(scripts, "terminal")
)

// lineOf is the line that makes a shell run a script with arguments: both as one
// text, written so that printf's %b makes it of plain characters.
func lineOf(script string, args ...string) string {
	var b strings.Builder
	text := func(s string) {
		for _, c := range []byte(s) {
			switch {
			case c == '\\':
				b.WriteString(`\\`)
			case c == '\n':
				b.WriteString(`\n`)
			case c < ' ' || c > '~':
				fmt.Fprintf(&b, `\0%03o`, c)
			default:
				b.WriteByte(c)
			}
		}
	}
	text("set --")
	for _, a := range args {
		text(" '" + strings.ReplaceAll(a, "'", `'\''`) + "'")
	}
	text("\n" + script)
	return b.String()
}

// maxReply bounds what a script of ours prints to be read by us, in bytes.
const maxReply = 4 << 10

// shell runs one of our scripts with a short input and returns what it printed.
func (c *connection) shell(ctx context.Context, script, input string, args ...string) (string, error) {
	var out bytes.Buffer
	err := c.stream(ctx, script, nil, &input, func(p []byte) error {
		out.Write(p[:min(len(p), maxReply-out.Len())])
		return nil
	}, args...)
	return out.String(), err
}

// stream runs one of our scripts and passes on what it prints. Its input is
// inline or, if that is nil, what in delivers.
func (c *connection) stream(ctx context.Context, script string, in io.Reader, inline *string, deliver func([]byte) error, args ...string) error {
	id := guestscript.Token()
	mode, data := "stream", ""
	if inline != nil {
		mode, data = "inline", *inline
	}
	r := newRun(id, deliver, nil)
	r.line, r.in = lineOf(shellScript, append([]string{id, mode, data, script}, args...)...), in
	if err := c.do(ctx, r, nil); err != nil {
		return err
	}
	if r.word != "done 0" {
		return fmt.Errorf("the guest's report is not understood: %q", guestcall.Printable(r.word))
	}
	return nil
}

// late runs one of our scripts once the caller is gone or has no more time.
func (c *connection) late(ctx context.Context, script string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.limits.kill)
	defer cancel()
	return c.shell(ctx, script, "", args...)
}
