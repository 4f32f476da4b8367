package gitops

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"sandboxd.dev/sandboxd/manifest"
)

const sandboxYAML = "apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: NAME}\nspec: {image: tiny}\n"

func sandboxNamed(name string) string { return strings.Replace(sandboxYAML, "NAME", name, 1) }

// write makes files below a directory.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// look reads a directory, in no time.
func look(t *testing.T, tree *Tree) Snapshot {
	t.Helper()
	s, err := tree.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// found tells of each file what was found in it.
func found(s Snapshot) string {
	var parts []string
	for _, f := range s.Files {
		text := f.Path
		for _, o := range f.Objects {
			text += " " + o.ID()
		}
		if f.Err != nil {
			text = f.Err.Error()
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "\n")
}

func TestTree(t *testing.T) {
	outside := t.TempDir()
	write(t, outside, map[string]string{"secret.yaml": sandboxNamed("secret")})
	for name, c := range map[string]struct {
		files       map[string]string
		change      func(t *testing.T, dir string)
		want, notes string
	}{
		"files": {
			files: map[string]string{"b.yaml": sandboxNamed("b"), "a/x.yml": sandboxNamed("x"), "README.md": "text", "c.JSON": `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n"}}`},
			want:  "a/x.yml Sandbox default/x\nb.yaml Sandbox default/b\nc.JSON Namespace n",
		},
		"hidden":      {files: map[string]string{".git/x.yaml": "{", ".ci.yaml": "{", "a/.x/y.yaml": "{"}, want: ""},
		"comments":    {files: map[string]string{"a.yaml": "# nothing\n"}, want: "a.yaml"},
		"empty file":  {files: map[string]string{"a.yaml": ""}, want: "a.yaml: it is empty: was it only half written?"},
		"syntax":      {files: map[string]string{"a.yaml": "a: {", "b.yaml": sandboxNamed("b")}, want: "a.yaml: line 1: did not find expected node content\nb.yaml Sandbox default/b"},
		"half of it":  {files: map[string]string{"a.yaml": sandboxNamed("a") + "---\napiVersion: sandboxd.dev/v1\nki"}, want: "a.yaml: document 2: line 7: could not find expected ':'"},
		"other kinds": {files: map[string]string{"a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"}, want: "a.yaml: objects of kind ConfigMap in v1 are not applied from a directory, only Namespace, Secret, GoldenImage, Sandbox and SandboxSnapshot"},
		"rights":      {files: map[string]string{"a.yaml": "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: x}\n"}, want: "a.yaml: objects of kind ClusterRoleBinding in rbac.authorization.k8s.io/v1 are not applied from a directory, only Namespace, Secret, GoldenImage, Sandbox and SandboxSnapshot"},
		"a kind with a mistake": {
			files: map[string]string{"a.yaml": strings.Replace(sandboxNamed("a"), "kind: Sandbox", "kind: Sandbxo", 1)},
			want:  "a.yaml: objects of kind Sandbxo in sandboxd.dev/v1 are not applied from a directory, only Namespace, Secret, GoldenImage, Sandbox and SandboxSnapshot",
		},
		"version":   {files: map[string]string{"a.yaml": strings.Replace(sandboxNamed("a"), "/v1", "/v2", 1)}, want: "a.yaml: the kind Sandbox is served as sandboxd.dev/v1, not as sandboxd.dev/v2: correct apiVersion"},
		"namespace": {files: map[string]string{"a.yaml": "apiVersion: sandboxd.dev/v1\nkind: GoldenImage\nmetadata: {name: i, namespace: team}\n"}, want: "a.yaml: GoldenImage team/i belongs to no namespace, but metadata.namespace says team: remove it"},
		"conflict":  {files: map[string]string{"a.yaml": "# one\n<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> other\n"}, want: "a.yaml: line 2: git has left a conflict there that nobody has settled"},
		"marks in a text": {
			files: map[string]string{"a.yaml": strings.Replace(sandboxNamed("a"), "{image: tiny}", "\n  image: |\n    <<<<<<< HEAD\n    =======\n    >>>>>>> x", 1)},
			want:  "a.yaml Sandbox default/a",
		},
		"kustomize": {
			files: map[string]string{"kustomization.yaml": "resources: [a.yaml]\n", "k.yaml": "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nmetadata: {name: x}\n"},
			want:  "k.yaml", notes: "k.yaml: kustomize is not supported: build what it describes where the directory is filled\nkustomization.yaml: kustomize is not supported: build what it describes where the directory is filled",
		},
		"links": {
			files: map[string]string{"real/a.yaml": sandboxNamed("a")},
			change: func(t *testing.T, dir string) {
				for name, to := range map[string]string{
					"in.yaml": "real/a.yaml", "out.yaml": filepath.Join(outside, "secret.yaml"), "up.yaml": "../../../../etc/passwd", "gone.yaml": "nowhere", "folder": "real",
				} {
					if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
						t.Fatal(err)
					}
				}
			},
			want: "gone.yaml: it cannot be read, or is a symbolic link that leads out of the directory: no such file or directory\n" +
				"in.yaml Sandbox default/a\n" +
				"out.yaml: it cannot be read, or is a symbolic link that leads out of the directory: path escapes from parent\n" +
				"real/a.yaml Sandbox default/a\n" +
				"up.yaml: it cannot be read, or is a symbolic link that leads out of the directory: path escapes from parent",
			notes: "folder: a symbolic link to a folder is not followed",
		},
		"a FIFO": {
			change: func(t *testing.T, dir string) {
				if err := syscall.Mkfifo(filepath.Join(dir, "a.yaml"), 0o600); err != nil {
					t.Fatal(err)
				}
			},
			want: "a.yaml: it is no file (p---------)",
		},
		"a folder with such a name": {files: map[string]string{"x.yaml/a.yaml": sandboxNamed("a")}, want: "x.yaml/a.yaml Sandbox default/a"},
		"a huge file": {
			change: func(t *testing.T, dir string) {
				write(t, dir, map[string]string{"a.yaml": "#"})
				if err := os.Truncate(filepath.Join(dir, "a.yaml"), manifest.MaxFile+1); err != nil {
					t.Fatal(err)
				}
			},
			want: "a.yaml: it is larger than 4 MiB: split it into several files",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, c.files)
			if c.change != nil {
				c.change(t, dir)
			}
			s := look(t, NewTree(dir, time.Nanosecond))
			if got := found(s); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			if got := strings.Join(s.Notes, "\n"); got != c.notes {
				t.Errorf("notes\n%s\nwant\n%s", got, c.notes)
			}
		})
	}
}

func TestTreeThatIsMissing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	tree := NewTree(dir, time.Nanosecond)
	if _, err := tree.Look(t.Context()); err == nil || err.Error() != dir+": the directory cannot be read: no such file or directory" {
		t.Errorf("got %v", err)
	}
	write(t, dir, map[string]string{"a.yaml": sandboxNamed("a")})
	if got := found(look(t, tree)); got != "a.yaml Sandbox default/a" {
		t.Errorf("got %q", got)
	}
	file := filepath.Join(dir, "a.yaml")
	if _, err := NewTree(file, time.Nanosecond).Look(t.Context()); err == nil {
		t.Error("a file is taken for a directory")
	}
}

// TestTreeIsSwapped: a link that is swapped for another, as git-sync does, is
// followed, also when nothing but the folder behind it is another.
func TestTreeIsSwapped(t *testing.T) {
	base := t.TempDir()
	write(t, base, map[string]string{"one/a.yaml": sandboxNamed("a"), "two/a.yaml": sandboxNamed("b")})
	link := filepath.Join(base, "current")
	tree := NewTree(link, time.Nanosecond)
	for to, want := range map[string]string{"one": "a.yaml Sandbox default/a", "two": "a.yaml Sandbox default/b"} {
		if err := os.Symlink(to, link+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link+".new", link); err != nil {
			t.Fatal(err)
		}
		if got := found(look(t, tree)); got != want {
			t.Errorf("%s: got %q", to, got)
		}
	}
}

// TestTreeIsSeenToChange: also when a file keeps its size and its time.
func TestTreeIsSeenToChange(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.yaml")
	when := time.Now().Add(-time.Hour)
	tree := NewTree(dir, time.Nanosecond)
	digests := map[string]bool{}
	for _, name := range []string{"a", "b", "c"} {
		write(t, dir, map[string]string{"a.yaml": sandboxNamed(name)})
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
		s := look(t, tree)
		if got := found(s); got != "a.yaml Sandbox default/"+name {
			t.Errorf("got %q", got)
		}
		digests[s.Digest] = true
	}
	if again := look(t, tree); len(digests) != 3 || !digests[again.Digest] {
		t.Errorf("the digests are %v", digests)
	}
}

// TestTreeWhileItIsWritten: what is not the same twice is not taken.
func TestTreeWhileItIsWritten(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var done atomic.Bool
		go func() {
			for n := 1; ctx.Err() == nil; n++ {
				if !done.Load() {
					write(t, dir, map[string]string{"a.yaml": strings.Repeat("#", n) + "\n" + sandboxNamed("a")})
				}
				_ = pause(ctx, 600*time.Millisecond)
			}
		}()
		synctest.Wait()
		tree := NewTree(dir, time.Second)
		if _, err := tree.Look(ctx); !errors.Is(err, errBusy) {
			t.Errorf("got %v", err)
		}
		done.Store(true)
		begin := time.Now()
		if got := found(look(t, tree)); got != "a.yaml Sandbox default/a" {
			t.Errorf("got %q", got)
		}
		if took := time.Since(begin); took != time.Second {
			t.Errorf("a change was taken after %v", took)
		}
		begin = time.Now()
		look(t, tree)
		if took := time.Since(begin); took != 0 {
			t.Errorf("what had not changed was taken after %v", took)
		}
	})
}

// TestTreeIsBounded: a tree that is not one of manifests ends in a sentence.
func TestTreeIsBounded(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"a.yaml": sandboxNamed("a"), "b.yaml": sandboxNamed("b")})
	tree := NewTree(dir, time.Nanosecond)
	tree.most = 2*int64(len(sandboxNamed("a"))) - 1
	if _, err := tree.Look(t.Context()); err == nil || !strings.HasSuffix(err.Error(), "its manifests have more than 163 bytes") {
		t.Errorf("got %v", err)
	}
}

// TestTreeThatCannotBeRead: a folder that cannot be read is something that is not
// known, and not something that is not there.
func TestTreeThatCannotBeRead(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root reads everything")
	}
	dir := t.TempDir()
	write(t, dir, map[string]string{"a/x.yaml": sandboxNamed("x")})
	if err := os.Chmod(filepath.Join(dir, "a"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "a"), fs.ModePerm) })
	if got := found(look(t, NewTree(dir, time.Nanosecond))); got != "a: it cannot be read: permission denied" {
		t.Errorf("got %q", got)
	}
}
