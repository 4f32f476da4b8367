package worker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/pmezard/go-difflib/difflib"

	"sandboxd.dev/sandboxd/disk/change"
	"sandboxd.dev/sandboxd/disk/ext4"
	"sandboxd.dev/sandboxd/disk/volume"
)

const (
	// maxText bounds a file whose contents are shown, in bytes, and maxLines the
	// lines of it.
	maxText  = 1 << 20
	maxLines = 20000
	// context is how many lines are shown around a difference.
	contextLines = 3
)

// content writes a unified diff of one file. Lines are escaped as names are, but for
// tabs.
func content(out io.Writer, from, to *volume.Disk, name string) error {
	a, okA, err := text(from, name)
	if err != nil {
		return err
	}
	b, okB, err := text(to, name)
	if err != nil {
		return err
	}
	if !okA && !okB {
		return fmt.Errorf("%s: %w", change.Escape(name), ErrNotFound)
	}
	shown := change.Escape(name)
	d := difflib.UnifiedDiff{
		A: a, B: b, Context: contextLines, Eol: "\n",
		FromFile: label(shown, "before", okA), ToFile: label(shown, "after", okB),
	}
	return difflib.WriteUnifiedDiff(dataWriter{out}, d)
}

func label(name, when string, there bool) string {
	if !there {
		return "/dev/null"
	}
	return name + "\t(" + when + ")"
}

// text reads the lines of a file; false when there is none. A symbolic link reads as
// the line that is its target.
func text(d *volume.Disk, name string) ([]string, bool, error) {
	v, inside := d.Locate(name)
	ino, _, err := v.FS.Resolve(inside, false)
	if errors.Is(err, ext4.ErrNotExist) || errors.Is(err, ext4.ErrNotDir) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", change.Escape(name), err)
	}
	raw, err := contents(v.FS, ino)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", change.Escape(name), err)
	}
	if bytes.IndexByte(raw, 0) >= 0 || !utf8.Valid(raw) {
		return nil, false, fmt.Errorf("%s: %w: it is not text; copy both states out to compare them", change.Escape(name), ErrUnsupported)
	}
	lines := strings.SplitAfter(string(raw), "\n")
	if len(lines) > maxLines {
		return nil, false, fmt.Errorf("%s: %w: it has more than %d lines", change.Escape(name), ErrTooLarge, maxLines)
	}
	if last := len(lines) - 1; lines[last] == "" {
		lines = lines[:last]
	} else {
		lines[last] += "\n\\ no newline at the end\n"
	}
	for i, line := range lines {
		lines[i] = plain(line)
	}
	return lines, true, nil
}

func contents(fs *ext4.FS, ino *ext4.Inode) ([]byte, error) {
	switch {
	case ino.IsSymlink():
		target, err := fs.Readlink(ino)
		return []byte(target + "\n"), err
	case !ino.IsRegular():
		return nil, fmt.Errorf("%w: it is a %s", ErrUnsupported, ino.Type())
	case ino.Size > maxText:
		return nil, fmt.Errorf("%w: it has %d bytes, and at most %d are shown; copy both states out to compare them", ErrTooLarge, ino.Size, maxText)
	}
	f, err := fs.OpenFile(ino)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
}

// plain escapes a line but for its tabs and its end.
func plain(line string) string {
	parts := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
	for i := range parts {
		parts[i] = strings.ReplaceAll(change.Escape(parts[i]), `\\`, `\`)
	}
	return strings.Join(parts, "\t") + "\n"
}
