// Package checksums reads files of digests as sha256sum and its like write them:
//
//	HEX  name          HEX *name          SHA256 (name) = HEX
//
// What else is in such a file (comments, signatures, digests of other kinds) is
// passed over. Such a file comes from the same place as what it speaks of: it
// finds errors of transport and mirrors, not a place that was taken over.
package checksums

import (
	"errors"
	"fmt"
	"strings"
)

// MaxSize of a file of digests, in bytes.
const MaxSize = 4 << 20

// maxLine is the length of a line that is read, in bytes.
const maxLine = 8 << 10

// Errors of Find.
var (
	// ErrMissing: it does not name the file.
	ErrMissing = errors.New("no digest of it")
	// ErrAmbiguous: it has several digests for one name.
	ErrAmbiguous = errors.New("different digests of it")
)

// Find returns the sha256 of a file by its name, in lower-case hexadecimal.
func Find(content []byte, name string) (string, error) {
	if name == "" || len(content) > MaxSize {
		return "", ErrMissing
	}
	found := ""
	for line := range strings.Lines(string(content)) {
		if len(line) > maxLine {
			continue
		}
		digest, of, ok := parse(strings.TrimRight(line, "\r\n"))
		if !ok || strings.TrimPrefix(of, "./") != name {
			continue
		}
		if found != "" && found != digest {
			return "", fmt.Errorf("%w: %s and %s", ErrAmbiguous, found, digest)
		}
		found = digest
	}
	if found == "" {
		return "", ErrMissing
	}
	return found, nil
}

// parse reads one line. One with an escaped name begins with a backslash and is
// passed over: no address ends with such a name.
func parse(line string) (digest, name string, ok bool) {
	if rest, bsd := strings.CutPrefix(line, "SHA256 ("); bsd {
		i := strings.LastIndex(rest, ") = ")
		if i < 0 {
			return "", "", false
		}
		name, digest = rest[:i], rest[i+len(") = "):]
	} else {
		const hexLen = 64
		if len(line) < hexLen+3 || line[hexLen] != ' ' || (line[hexLen+1] != ' ' && line[hexLen+1] != '*') {
			return "", "", false
		}
		digest, name = line[:hexLen], line[hexLen+2:]
	}
	digest = strings.ToLower(digest)
	return digest, name, isDigest(digest)
}

func isDigest(s string) bool {
	const hexLen = 64
	return len(s) == hexLen && strings.Trim(s, "0123456789abcdef") == ""
}
