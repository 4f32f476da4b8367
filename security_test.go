package sandboxd_test

import (
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
)

// proof is a test as docs/security.md names it: FILE:NAME, or FILE:TestScripts/SCRIPT.
var proof = regexp.MustCompile("`([a-z0-9_/]+\\.go):([A-Za-z0-9_]+)(?:/([a-z0-9_]+))?`")

// sentences are what is promised in the design, each with its heading on the page.
var sentences = []string{
	"Isolation is asked for and seen", "What comes from a guest is hostile", "Host paths in manifests", "Images",
	"The hypervisor gets words, not text", "Secrets", "Devices", "The daemon",
}

// TestSecurityPage: every promise of docs/security.md names tests, and they exist.
func TestSecurityPage(t *testing.T) {
	b, err := os.ReadFile("docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	_, promised, _ := strings.Cut(page, "\n## What is promised\n")
	promised, _, _ = strings.Cut(promised, "\n## ")
	rows := map[string]int{}
	heading := ""
	for line := range strings.Lines(promised) {
		line = strings.TrimSpace(line)
		if text, ok := strings.CutPrefix(line, "### "); ok {
			heading = text
		}
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "| promise |") || strings.HasPrefix(line, "|---") {
			continue
		}
		rows[heading]++
		cells := strings.Split(strings.Trim(line, "|"), " | ")
		if len(cells) != 3 || strings.TrimSpace(cells[1]) == "" || !proof.MatchString(cells[2]) {
			t.Errorf("a promise without what keeps it and what proves it: %s", line)
			continue
		}
		if rest := strings.Trim(proof.ReplaceAllString(cells[2], ""), ", "); rest != "" {
			t.Errorf("%q proves nothing: %s", rest, line)
		}
	}
	for _, s := range sentences {
		if rows[s] == 0 {
			t.Errorf("nothing is promised under %q", s)
		}
	}
	for _, m := range proof.FindAllStringSubmatch(page, -1) {
		if why := missing(m[1], m[2], m[3]); why != "" {
			t.Errorf("docs/security.md names %s, and %s", m[0], why)
		}
	}
}

// missing says why a proof does not exist; empty when it does.
func missing(file, name, script string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return "there is no such file"
	}
	// A test, a fuzz target, or a part of the conformance suite.
	if !regexp.MustCompile(`(?m)^func (\([a-z]+ \*?[A-Za-z]+\) )?` + name + `\(`).Match(b) {
		return "there is no such test in it"
	}
	if !strings.HasPrefix(name, "Test") && !strings.HasPrefix(name, "Fuzz") && !strings.HasPrefix(name, "test") {
		return "it is no test"
	}
	if script == "" {
		return ""
	}
	if _, err := os.Stat(path.Join(path.Dir(file), "testdata", "script", script+".txtar")); err != nil {
		return "there is no such script"
	}
	return ""
}
