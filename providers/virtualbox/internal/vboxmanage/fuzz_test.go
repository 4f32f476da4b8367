package vboxmanage

import (
	"strings"
	"testing"
	"unicode"
)

// FuzzFailure: what VBoxManage says becomes one bounded line that steers no
// terminal.
func FuzzFailure(f *testing.F) {
	f.Add("VBoxManage: error: Could not find \x1b[2Ja machine\nVBoxManage: error: Details: code VBOX_E_OBJECT_NOT_FOUND (0x80bb0001), component\n")
	f.Add("VBoxManage: error: Code NS_ERROR_ABORT (0x80004004)")
	f.Fuzz(func(t *testing.T, said string) {
		failure := newFailure([]string{"showvminfo", "x"}, 1, []byte(said))
		_, _ = failure.Kind(), failure.momentary()
		if text := failure.Error(); len(text) > 8<<10 || strings.ContainsFunc(text, unicode.IsControl) {
			t.Fatalf("%q", text)
		}
	})
}
