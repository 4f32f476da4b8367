package shell

import (
	"bytes"
	"context"
	"strconv"
	"strings"
	"sync"
)

// maxValue bounds what a variable or a substitution may hold, in bytes.
const maxValue = 1 << 20

func (e *evaluator) expandAll(ctx context.Context, words []word) []string {
	var all []string
	for _, w := range words {
		all = append(all, e.expand(ctx, w)...)
	}
	return all
}

// fields collects the fields that a word expands to.
type fields struct {
	done []string
	cur  strings.Builder
	open bool
}

func (f *fields) add(s string) {
	f.cur.WriteString(s)
	f.open = true
}

func (f *fields) end() {
	if f.open {
		f.done = append(f.done, f.cur.String())
		f.cur.Reset()
		f.open = false
	}
}

// split adds text that spaces divide into fields.
func (f *fields) split(s string) {
	for i, line := range strings.FieldsFunc(s, isSpace) {
		if i > 0 || isSpace(rune(s[0])) {
			f.end()
		}
		f.add(line)
	}
	if s != "" && isSpace(rune(s[len(s)-1])) {
		f.end()
	}
}

func isSpace(r rune) bool { return r == ' ' || r == '\t' || r == '\n' }

func (e *evaluator) expand(ctx context.Context, w word) []string {
	var f fields
	for _, p := range w {
		switch {
		case p.kind == literal:
			f.add(p.text)
		case p.kind == substitution:
			f.put(e.substitute(ctx, p.sub), p.quoted)
		case p.text == "@" && p.quoted:
			for i, a := range e.positional() {
				if i > 0 {
					f.end()
				}
				f.add(a)
			}
		default:
			f.put(e.parameter(p.text), p.quoted)
		}
		if f.cur.Len() > maxValue {
			e.fail("a word is longer than %d bytes", maxValue)
			return nil
		}
	}
	f.end()
	return f.done
}

func (f *fields) put(s string, quoted bool) {
	if quoted {
		f.add(s)
	} else {
		f.split(s)
	}
}

func (e *evaluator) positional() []string {
	if len(e.args) == 0 {
		return nil
	}
	return e.args[1:]
}

func (e *evaluator) parameter(name string) string {
	switch name {
	case "?":
		return strconv.Itoa(e.status)
	case "$":
		return strconv.Itoa(e.host.PID())
	case "!":
		if e.lastPID == 0 {
			return ""
		}
		return strconv.Itoa(e.lastPID)
	case "#":
		return strconv.Itoa(len(e.positional()))
	case "@", "*":
		return strings.Join(e.positional(), " ")
	}
	if n, err := strconv.Atoi(name); err == nil {
		if n < len(e.args) {
			return e.args[n]
		}
		return ""
	}
	return e.vars[name]
}

func (e *evaluator) set(name, value string) {
	if len(value) > maxValue {
		e.fail("%s would be longer than %d bytes", name, maxValue)
		return
	}
	e.vars[name] = value
}

// substitute runs a list in a subshell and returns what it wrote, without the
// newlines at its end.
func (e *evaluator) substitute(ctx context.Context, l list) string {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	sub := e.fork()
	out := &bounded{end: end}
	sub.streams.Out = out
	e.status = sub.run(ctx, l)
	e.substituted = true
	out.mu.Lock()
	defer out.mu.Unlock()
	if out.full {
		e.fail("a substitution gave more than %d bytes", maxValue)
		return ""
	}
	return strings.TrimRight(out.buf.String(), "\n")
}

// bounded keeps up to maxValue bytes and ends its writer beyond that.
type bounded struct {
	mu   sync.Mutex // a background command may write, too
	buf  bytes.Buffer
	full bool
	end  context.CancelCauseFunc
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.full = b.full || b.buf.Len()+len(p) > maxValue; b.full {
		b.end(context.Canceled)
		return len(p), nil
	}
	return b.buf.Write(p)
}
