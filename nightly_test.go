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
	out, err := run("NIGHTLY_LIMIT=1s", "HANG=yes")
	if err == nil {
		t.Errorf("it succeeds although parts of it fail:\n%s", out)
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
	failed := regexp.MustCompile(`(?m)^nightly: failed: (\S+) \((.*)\)$`).FindAllStringSubmatch(out, -1)
	if len(failed) != 2 || failed[0][1] != "test-gitops" || failed[1][1] != "test-storm" || failed[1][2] != "not done within 1s" {
		t.Errorf("it says that these failed: %v\n%s", failed, out)
	}
	if err := os.WriteFile(filepath.Join(bin, "make"), []byte("#!/bin/bash\n"), 0o755); err != nil { // #nosec G306 -- a program
		t.Fatal(err)
	}
	if out, err := run(); err != nil || strings.Contains(out, "failed") {
		t.Errorf("where nothing fails: %v\n%s", err, out)
	}
}
