// Package guestscript has the shell scripts that providers run in guests, and
// reads what they report. They need a POSIX shell and what busybox has.
//
//	Put, Get, Keys, Mount, a script that runs a command ──▶ a word or a line ──▶ error
//
// Arguments reach them as arguments, never as text of a script, and what they
// print is a word or two that is compared, never a path or a command. What says
// something else is not believed.
package guestscript

import (
	"crypto/rand"
	"embed"
	"encoding/hex"
	"strings"
)

//go:embed scripts/*.sh
var scripts embed.FS

// The scripts. What each is given and prints, its first lines say.
var (
	// Inner starts a command in a session of its own.
	Inner = Load(scripts, "inner")
	// Kill ends a command with everything that it started.
	Kill = Load(scripts, "kill")
	// Put replaces a file.
	Put = Load(scripts, "put")
	// Get describes a file and prints it.
	Get = Load(scripts, "get")
	// Keys replaces a user's authorized ssh keys by KeysInner.
	Keys      = Load(scripts, "keys")
	KeysInner = Load(scripts, "keys-inner")
	// Mount mounts a shared folder.
	Mount = Load(scripts, "mount")
)

// Load reads a script of a package's folder scripts, without comments and
// indentation, which a guest need not get.
func Load(scripts embed.FS, name string) string {
	b, err := scripts.ReadFile("scripts/" + name + ".sh")
	if err != nil {
		panic(err) // it is embedded
	}
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			out.WriteString(strings.TrimLeft(line, "\t"))
		}
	}
	return out.String()
}

// Token names temporary files and reports so that nobody in the guest can guess
// it: 128 random bits in hexadecimal.
func Token() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Quote makes words of a shell's of any text: single quotes hold anything but
// themselves.
func Quote(words ...string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}
