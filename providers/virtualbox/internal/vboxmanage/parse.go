package vboxmanage

import (
	"bufio"
	"bytes"
	"regexp"
	"strings"
)

// Info is what `showvminfo --machinereadable` says of a machine, by key.
type Info map[string]string

// ParseInfo reads lines of the forms
//
//	key="value"   "key"="value"   key=value   key="value"rest
//
// A quoted value may go over several lines and has \" and \\ escaped. Lines
// without = are passed over. Of a key that comes twice the first counts: what a
// guest has a say in (the version of its Guest Additions) comes after what
// matters, so it cannot pass for it.
func ParseInfo(b []byte) Info {
	info := Info{}
	for len(b) > 0 {
		key, rest, ok := cutKey(b)
		if !ok {
			b = nextLine(b)
			continue
		}
		var value string
		value, b = cutValue(rest)
		if _, twice := info[key]; !twice {
			info[key] = value
		}
	}
	return info
}

// cutKey reads a key up to its =, on one line.
func cutKey(b []byte) (key string, rest []byte, ok bool) {
	if b[0] == '"' {
		key, rest = unquote(b)
		if strings.Contains(key, "\n") || len(rest) == 0 || rest[0] != '=' {
			return "", nil, false
		}
		return key, rest[1:], true
	}
	i := bytes.IndexAny(b, "=\n")
	if i < 0 || b[i] == '\n' {
		return "", nil, false
	}
	return string(b[:i]), b[i+1:], true
}

// cutValue reads a value and goes on to the next line.
func cutValue(b []byte) (string, []byte) {
	if len(b) > 0 && b[0] == '"' {
		value, rest := unquote(b)
		return value, nextLine(rest)
	}
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		return string(b), nil
	}
	return strings.TrimSuffix(string(b[:end]), "\r"), b[end+1:]
}

// unquote reads a quoted text; without a closing quote it ends with the input.
func unquote(b []byte) (string, []byte) {
	var s strings.Builder
	for i := 1; i < len(b); i++ {
		switch {
		case b[i] == '\\' && i+1 < len(b) && (b[i+1] == '"' || b[i+1] == '\\'):
			i++
			s.WriteByte(b[i])
		case b[i] == '"':
			return s.String(), b[i+1:]
		default:
			s.WriteByte(b[i])
		}
	}
	return s.String(), nil
}

func nextLine(b []byte) []byte {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return b[i+1:]
	}
	return nil
}

// Listing is what `list --multiple vms runningvms` says.
type Listing struct {
	// Registered machines, and those of them that are on, by UUID.
	Registered, On map[string]bool
}

var listed = regexp.MustCompile(`\{([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\}\r?$`)

// ParseListing reads lines of the form "name" {uuid}. Names are not escaped and
// may contain anything, lines of this form included: a listing is a hint. No name
// hides a machine, though. All are listed first, and those that are on once more
// after a heading: so a heading in a name is none of those that come after it.
func ParseListing(b []byte) Listing {
	l := Listing{Registered: map[string]bool{}, On: map[string]bool{}}
	again := false
	s := bufio.NewScanner(bytes.NewReader(b))
	s.Buffer(nil, maxOutput)
	for s.Scan() {
		again = again || s.Text() == "[runningvms]"
		if m := listed.FindStringSubmatch(s.Text()); m != nil {
			if again && l.Registered[m[1]] {
				l.On[m[1]] = true
			}
			l.Registered[m[1]] = true
		}
	}
	return l
}

// Blocks reads the output of a list command for people: blocks of lines
// "Key:   value" with an empty line after each. Of a key that comes twice the
// first counts; a line that begins with a space goes on with the last value.
func Blocks(b []byte) []map[string]string {
	var all []map[string]string
	var block map[string]string
	last := ""
	s := bufio.NewScanner(bytes.NewReader(b))
	s.Buffer(nil, maxOutput)
	for s.Scan() {
		line := strings.TrimRight(s.Text(), " \r")
		key, value, ok := strings.Cut(line, ":")
		switch {
		case line == "":
			block, last = nil, ""
		case line[0] == ' ' && block != nil && last != "":
			block[last] += "\n" + strings.TrimSpace(line)
		case ok:
			if block == nil {
				block = map[string]string{}
				all = append(all, block)
			}
			if last = key; block[key] == "" {
				block[key] = strings.TrimSpace(value)
			}
		}
	}
	return all
}
