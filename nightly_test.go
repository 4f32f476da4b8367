package sandboxd_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestNightly runs the nightly checks with a make that only says what it is asked for:
// each target is one of the Makefile, all of them are run whatever becomes of the others,
// and the end says which failed and which took too long.
func TestNightly(t *testing.T) {
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	const fake = `#!/bin/bash
echo "asked for $1"
case $1 in
test-gitops) exit 2 ;;
test-storm) [ -z "$HANG" ] || exec sleep 1000 ;;
esac
`
	if err := os.WriteFile(filepath.Join(bin, "make"), []byte(fake), 0o755); err != nil { // #nosec G306 -- a program
		t.Fatal(err)
	}
	run := func(env ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "bash", ".ci/nightly")
		cmd.Env = append(append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH")), env...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		return out.String(), err
	}
	failures := func(out string) (failed [][]string) {
		for _, found := range regexp.MustCompile(`(?m)^nightly: failed: (\S+) \((.*)\)$`).FindAllStringSubmatch(out, -1) {
			failed = append(failed, found[1:])
		}
		return failed
	}
	out, err := run("NIGHTLY_LIMIT=10m")
	if failed := failures(out); err == nil || len(failed) != 1 || failed[0][0] != "test-gitops" || !strings.HasPrefix(failed[0][1], "after ") {
		t.Errorf("where one fails (%v) it says that these did: %q\n%s", err, failed, out)
	}
	var asked []string
	for _, found := range regexp.MustCompile(`(?m)^asked for (\S+)$`).FindAllStringSubmatch(out, -1) {
		asked = append(asked, found[1])
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(found[1]) + `:`).Match(makefile) {
			t.Errorf("the Makefile has no target %s", found[1])
		}
	}
	contributing, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	if len(asked) < 5 || !slices.Contains(asked, "fuzz-short") || !strings.Contains(string(contributing), "# what is too long for that: "+strings.Join(asked, ", ")+"\n") {
		t.Errorf("it runs %v, and CONTRIBUTING.md says otherwise", asked)
	}
	out, err = run("NIGHTLY_LIMIT=1s", "HANG=yes")
	failed := failures(out)
	// On a busy host others may take a second, too.
	others := slices.DeleteFunc(slices.Clone(failed), func(f []string) bool { return f[0] == "test-gitops" || f[1] == "not done within 1s" })
	if err == nil || len(others) > 0 || !slices.ContainsFunc(failed, func(f []string) bool { return f[0] == "test-storm" }) ||
		!slices.ContainsFunc(failed, func(f []string) bool { return f[0] == "test-gitops" }) {
		t.Errorf("where one fails and one hangs (%v) it says that these did: %q\n%s", err, failed, out)
	}
	if err := os.WriteFile(filepath.Join(bin, "make"), []byte("#!/bin/bash\n"), 0o755); err != nil { // #nosec G306 -- a program
		t.Fatal(err)
	}
	if out, err := run(); err != nil || strings.Contains(out, "failed") {
		t.Errorf("where nothing fails: %v\n%s", err, out)
	}
}
