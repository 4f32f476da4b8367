package guestscript

import (
	"strings"
	"testing"
	"unicode"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// FuzzReports: what scripts in guests report is understood or refused, and no word
// of it gets further than as part of one printable line.
func FuzzReports(f *testing.F) {
	for _, s := range []string{"done 0", "done 256", "refused user", "ok 10 644", "ok -1 644", "ok 99999999999999999999 0", "failed \x1b[2J", "missing"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		code, err := ExitCode(line)
		check(t, line, err)
		if code < 0 || code > 255 {
			t.Fatalf("%q is the exit code %d", line, code)
		}
		info, err := GetOutcome(line, "/x")
		check(t, line, err)
		if info.Size < 0 || info.Mode > 0o777 {
			t.Fatalf("%q is the file %+v", line, info)
		}
		check(t, line, PutOutcome(line, "/x"))
		check(t, line, KeysOutcome(line, "root"))
		check(t, line, SharingOf(v1.ProviderKVM).Outcome(line, v1.SharedFolder{Name: "a", HostPath: "/a"}))
	})
}

func check(t *testing.T, said string, err error) {
	t.Helper()
	if err != nil && (len(err.Error()) > 2<<10 || strings.ContainsFunc(err.Error(), unicode.IsControl)) {
		t.Fatalf("%q becomes %q", said, err)
	}
}
