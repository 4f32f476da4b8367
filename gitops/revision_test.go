package gitops

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckout(t *testing.T) {
	one, two := strings.Repeat("1a", 20), strings.Repeat("2b", 32)
	for name, c := range map[string]struct {
		files          map[string]string
		in             string
		revision, busy string
	}{
		"none":            {files: map[string]string{"x/y": ""}, in: "x"},
		"detached":        {files: map[string]string{".git/HEAD": one + "\n"}, revision: one},
		"sha256":          {files: map[string]string{".git/HEAD": two + "\n"}, revision: two},
		"a branch":        {files: map[string]string{".git/HEAD": "ref: refs/heads/main\n", ".git/refs/heads/main": one + "\n"}, revision: one},
		"from below":      {files: map[string]string{".git/HEAD": one + "\n", "a/b/c": ""}, in: "a/b", revision: one},
		"packed":          {files: map[string]string{".git/HEAD": "ref: refs/heads/main\n", ".git/packed-refs": "# pack-refs with: peeled\n" + two + " refs/heads/other\n" + one + " refs/heads/main\n^" + two + "\n"}, revision: one},
		"loose over pack": {files: map[string]string{".git/HEAD": "ref: refs/heads/main\n", ".git/refs/heads/main": one, ".git/packed-refs": two + " refs/heads/main\n"}, revision: one},
		"a worktree": {files: map[string]string{
			"wt/.git": "gitdir: ../main/.git/worktrees/wt\n", "main/.git/worktrees/wt/HEAD": "ref: refs/heads/wt\n",
			"main/.git/worktrees/wt/commondir": "../..\n", "main/.git/refs/heads/wt": one,
		}, in: "wt", revision: one},
		"no commit yet":      {files: map[string]string{".git/HEAD": "ref: refs/heads/main\n"}},
		"a ref that escapes": {files: map[string]string{".git/HEAD": "ref: refs/../../outside\n", "outside": one}},
		"no ref":             {files: map[string]string{".git/HEAD": "ref: HEAD\n"}},
		"no commit's name":   {files: map[string]string{".git/HEAD": "<script>\n"}},
		"at work":            {files: map[string]string{".git/HEAD": one, ".git/index.lock": ""}, revision: one, busy: "git is at work in the checkout (.git/index.lock exists)"},
		"merging":            {files: map[string]string{".git/HEAD": one, ".git/MERGE_HEAD": two}, revision: one, busy: "a merge in the checkout is not finished"},
		"rebasing":           {files: map[string]string{".git/HEAD": one, ".git/rebase-merge/x": ""}, revision: one, busy: "a rebase in the checkout is not finished"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, c.files)
			if got := lookAtCheckout(filepath.Join(dir, c.in)); got != (checkout{c.revision, c.busy}) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// FuzzCheckout: whatever is in git's files, only a commit's name is told.
func FuzzCheckout(f *testing.F) {
	f.Add("ref: refs/heads/main\n", strings.Repeat("1a", 20)+" refs/heads/main\n", "..")
	f.Add(strings.Repeat("1a", 20), "", "")
	f.Add("ref: refs/\x00\n", "^x", "/")
	f.Fuzz(func(t *testing.T, head, packed, common string) {
		dir := t.TempDir()
		for name, text := range map[string]string{"HEAD": head, "packed-refs": packed, "commondir": common} {
			if err := os.MkdirAll(filepath.Join(dir, ".git"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, ".git", name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := lookAtCheckout(dir); got.revision != "" && !hash.MatchString(got.revision) || got.busy != "" {
			t.Errorf("got %+v", got)
		}
	})
}
