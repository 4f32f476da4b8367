// Package guestscript has the shell scripts that providers run in guests. They
// need a POSIX shell and what busybox has.
//
// Arguments reach them as arguments, never as text of a script, and what they
// print is a word or two that is compared, never a path or a command.
package guestscript

import (
	"embed"
	"strings"
)

//go:embed scripts/*.sh
var scripts embed.FS

// The scripts. What each is given and prints, its first lines say.
var (
	// Inner starts a command in a session of its own.
	Inner = script("inner")
	// Kill ends a command with everything that it started.
	Kill = script("kill")
	// Put replaces a file.
	Put = script("put")
	// Get describes a file and prints it.
	Get = script("get")
	// Keys replaces a user's authorized ssh keys by KeysInner.
	Keys      = script("keys")
	KeysInner = script("keys-inner")
)

func script(name string) string {
	b, err := scripts.ReadFile("scripts/" + name + ".sh")
	if err != nil {
		panic(err) // it is embedded
	}
	return Strip(string(b))
}

// Strip takes from a script its comments and indentation, which a guest need not
// get.
func Strip(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			out.WriteString(strings.TrimLeft(line, "\t"))
		}
	}
	return out.String()
}
