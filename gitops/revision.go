package gitops

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// checkout is what a directory's git checkout says of itself. All of it is read
// from files; no program of git is run, and nothing is locked or refreshed.
type checkout struct {
	// revision is the commit that HEAD names; empty when there is no checkout, or
	// none that can be told.
	revision string
	// busy says what git has not finished; empty when nothing.
	busy string
}

// unfinished are the files by which git marks what is under way.
var unfinished = []struct{ name, means string }{
	{"index.lock", "git is at work in the checkout (.git/index.lock exists)"},
	{"MERGE_HEAD", "a merge in the checkout is not finished"},
	{"CHERRY_PICK_HEAD", "a cherry-pick in the checkout is not finished"},
	{"REVERT_HEAD", "a revert in the checkout is not finished"},
	{"rebase-merge", "a rebase in the checkout is not finished"},
	{"rebase-apply", "a rebase in the checkout is not finished"},
}

// lookAtCheckout looks at the checkout that a directory is in, at any depth.
func lookAtCheckout(dir string) checkout {
	gitDir := findGit(dir)
	if gitDir == "" {
		return checkout{}
	}
	c := checkout{revision: headOf(gitDir)}
	for _, u := range unfinished {
		if _, err := os.Lstat(filepath.Join(gitDir, u.name)); err == nil {
			c.busy = u.means
			break
		}
	}
	return c
}

// findGit finds the folder that git keeps a checkout's state in; a worktree has a
// file that points there.
func findGit(dir string) string {
	for {
		path := filepath.Join(dir, ".git")
		if info, err := os.Stat(path); err == nil {
			if info.IsDir() {
				return path
			}
			if to, ok := strings.CutPrefix(firstLine(path), "gitdir: "); ok {
				return below(dir, to)
			}
			return ""
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

// below joins a path that may be absolute.
func below(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// headOf is the commit that HEAD names, by itself or by a branch.
func headOf(gitDir string) string {
	head := firstLine(filepath.Join(gitDir, "HEAD"))
	ref, symbolic := strings.CutPrefix(head, "ref: ")
	if !symbolic {
		return commit(head)
	}
	if !strings.HasPrefix(ref, "refs/") || !filepath.IsLocal(ref) {
		return ""
	}
	common := gitDir
	if to := firstLine(filepath.Join(gitDir, "commondir")); to != "" {
		common = below(gitDir, to)
	}
	for _, dir := range []string{gitDir, common} {
		if c := commit(firstLine(filepath.Join(dir, ref))); c != "" {
			return c
		}
	}
	return packed(readSome(filepath.Join(common, "packed-refs"), maxPackedRefs), ref)
}

// packed finds a branch in a file of packed references.
func packed(raw []byte, ref string) string {
	for line := range bytes.Lines(raw) {
		hash, name, ok := strings.Cut(strings.TrimSpace(string(line)), " ")
		if ok && name == ref {
			return commit(hash)
		}
	}
	return ""
}

var hash = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// commit is a text if it is a commit's name, and else nothing: what is shown to
// people as a revision is one.
func commit(text string) string {
	if hash.MatchString(text) {
		return text
	}
	return ""
}

// Bounds of what is read of git's files.
const (
	maxRef        = 4 << 10
	maxPackedRefs = 16 << 20
)

func firstLine(path string) string {
	line, _, _ := strings.Cut(string(readSome(path, maxRef)), "\n")
	return strings.TrimSpace(line)
}

// readSome reads the beginning of a regular file; nothing when it cannot be read.
func readSome(path string, most int64) []byte {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	raw, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return nil
	}
	return raw
}
