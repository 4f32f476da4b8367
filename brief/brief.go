// Package brief shortens texts that others have written, for messages.
package brief

import "strings"

// Text is a text, or its first bytes, at most so many and up to the end of a
// character, with a mark that there was more. The mark comes on top of them.
func Text(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
