// Package change says how two states of a guest's disk differ: the words that the
// process which compares them, the daemon and its clients share.
//
// Names and targets of links are a guest's: any bytes but a slash and zero. Here they
// are escaped, so that they are text which no terminal takes for a command: what is
// not a printable character stands as \xNN for each of its bytes, and a backslash as
// two.
package change

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Op is what became of a file.
type Op string

// What became of a file.
const (
	Added   Op = "added"
	Removed Op = "removed"
	Changed Op = "changed"
	// Touched: nothing but the time of its last change differs.
	Touched Op = "touched"
)

// Aspect is what differs in a file that was changed.
type Aspect string

// The aspects of a file.
const (
	Type    Aspect = "type"
	Mode    Aspect = "mode"
	Owner   Aspect = "owner"
	Size    Aspect = "size"
	Content Aspect = "content"
	Target  Aspect = "target" // of a symbolic link
	Device  Aspect = "device" // number of a device file
	Xattrs  Aspect = "xattrs" // extended attributes: capabilities, ACLs, labels
	MTime   Aspect = "mtime"
)

// File describes a file in one of the states.
type File struct {
	// Type is file, directory, symlink, character-device, block-device, fifo or
	// socket.
	Type string `json:"type"`
	// Mode holds the permission bits in octal, such as 0644 or 4755.
	Mode string `json:"mode"`
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	// Size of a file or link in bytes.
	Size int64 `json:"size"`
	// MTime is when the contents last changed, as RFC 3339 has it.
	MTime string `json:"mtime"`
	// Target of a symbolic link, escaped.
	Target string `json:"target,omitempty"`
	// Device number of a device file, as MAJOR:MINOR.
	Device string `json:"device,omitempty"`
}

// Change is one difference.
type Change struct {
	Op Op `json:"op"`
	// Path in the guest, escaped.
	Path string `json:"path"`
	// Partition is set when /etc/fstab does not tell where the guest has the
	// partition: Path begins at its root then.
	Partition int `json:"partition,omitempty"`
	// What differs in a file that was changed.
	What []Aspect `json:"what,omitempty"`
	// From and To are the file before and after.
	From *File `json:"from,omitempty"`
	To   *File `json:"to,omitempty"`
}

// Note is something to know of the comparison as a whole.
type Note struct {
	Message string `json:"message"`
	// Incomplete: something could not be compared.
	Incomplete bool `json:"incomplete,omitempty"`
}

// Line is one line of a comparison as it is sent: exactly one of its fields is set.
type Line struct {
	Change *Change `json:"change,omitempty"`
	Note   *Note   `json:"note,omitempty"`
}

// Escape makes a guest's name text.
func Escape(name string) string {
	var b strings.Builder
	for i := 0; i < len(name); {
		r, n := utf8.DecodeRuneInString(name[i:])
		switch {
		case r == '\\':
			b.WriteString(`\\`)
		case r == utf8.RuneError && n <= 1, !unicode.IsPrint(r):
			for _, c := range []byte(name[i : i+max(n, 1)]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		default:
			b.WriteRune(r)
		}
		i += max(n, 1)
	}
	return b.String()
}

// Unescape is the reverse of Escape. It fails on text that Escape does not make.
func Unescape(text string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			b.WriteByte(text[i])
			continue
		}
		rest := text[i+1:]
		switch {
		case strings.HasPrefix(rest, `\`):
			b.WriteByte('\\')
			i++
		case strings.HasPrefix(rest, "x") && len(rest) >= 3:
			c, err := strconv.ParseUint(rest[1:3], 16, 8)
			if err != nil {
				return "", fmt.Errorf("%q: \\x must be followed by two hexadecimal digits", text)
			}
			b.WriteByte(byte(c))
			i += 3
		default:
			return "", fmt.Errorf("%q: a backslash must be written as two, and other bytes as \\xNN", text)
		}
	}
	return b.String(), nil
}

// Clean tells whether a text is one that Escape makes.
func Clean(text string) bool {
	name, err := Unescape(text)
	return err == nil && Escape(name) == text
}
