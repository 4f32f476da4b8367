package gitops

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/manifest"
)

const testSource = "dir-test"

// file holds sandboxes of the given names.
func file(path string, names ...string) File {
	f := File{Path: path}
	for _, name := range names {
		u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"image": "tiny"}}}
		u.SetGroupVersionKind(v1.GroupVersion.WithKind("Sandbox"))
		u.SetNamespace("default")
		u.SetName(name)
		f.Objects = append(f.Objects, manifest.Object{Unstructured: u, Source: path})
	}
	return f
}

func id(name string) manifest.Identity {
	return manifest.Identity{Kind: v1.GroupVersion.WithKind("Sandbox").GroupKind(), Namespace: "default", Name: name}
}

// settled makes what there is of sandboxes that were applied from files like these.
func settled(names ...string) (map[manifest.Identity]Live, map[manifest.Identity]Record) {
	live, records := map[manifest.Identity]Live{}, map[manifest.Identity]Record{}
	for _, o := range file("", names...).Objects {
		i := manifest.IdentityOf(o)
		live[i] = Live{Identity: i, UID: "u", ResourceVersion: "7", Mark: "ours"}
		records[i] = Record{UID: "u", Digest: digest(labelled(o.Unstructured, testSource).Object), Mark: "ours"}
	}
	return live, records
}

func many(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("s%02d", i)
	}
	return names
}

func TestDecide(t *testing.T) {
	unreadable := File{Path: "bad.yaml", Err: errors.New("bad.yaml: it cannot be read")}
	for name, c := range map[string]struct {
		files []File
		// before are the names of what was applied before.
		before []string
		change func(*Input)
		want   string
	}{
		"first":           {files: []File{file("a", "x", "y")}, want: "apply x y"},
		"settled":         {files: []File{file("a", "x", "y")}, before: []string{"x", "y"}, want: "settled 2"},
		"new":             {files: []File{file("a", "x", "y")}, before: []string{"x"}, want: "settled 1; apply y"},
		"moved":           {files: []File{file("b", "x")}, before: []string{"x"}, want: "settled 1"},
		"after a restart": {files: []File{file("a", "x")}, before: []string{"x"}, change: func(in *Input) { in.Records = nil }, want: "apply x"},
		"changed": {files: []File{file("a", "x")}, before: []string{"x"}, change: func(in *Input) {
			in.Files[0].Objects[0].Object["spec"] = map[string]any{"image": "other"}
		}, want: "apply x"},
		"drifted":             {files: []File{file("a", "x")}, before: []string{"x"}, change: live("x", func(l *Live) { l.Mark = "less" }), want: "apply x"},
		"its label was taken": {files: []File{file("a", "x")}, before: []string{"x"}, change: func(in *Input) { in.Live = nil }, want: "apply x"},
		"made anew by others": {files: []File{file("a", "x")}, before: []string{"x"}, change: live("x", func(l *Live) { l.UID = "v" }), want: "apply x"},
		"is being deleted":    {files: []File{file("a", "x")}, before: []string{"x"}, change: live("x", func(l *Live) { l.Deleting = true }), want: "wait x"},

		"left":                    {files: []File{file("a", "x")}, before: []string{"x", "y"}, want: "settled 1; prune y"},
		"left and is deleted":     {files: []File{file("a", "x")}, before: []string{"x", "y"}, change: live("y", func(l *Live) { l.Deleting = true }), want: "settled 1"},
		"left and protected":      {files: []File{file("a", "x")}, before: []string{"x", "y"}, change: live("y", func(l *Live) { l.Protected = true }), want: "settled 1; keep y"},
		"a copy of what was ours": {files: []File{file("a", "x")}, before: []string{"x", "y"}, change: live("y", func(l *Live) { l.Mark = "" }), want: "settled 1"},
		"left and cannot be deleted": {files: []File{file("a", "x")}, before: []string{"x"}, change: func(in *Input) {
			namespace := manifest.Identity{Kind: corev1.SchemeGroupVersion.WithKind("Namespace").GroupKind(), Name: "default"}
			in.Live[namespace] = Live{Identity: namespace, UID: "u", Mark: "ours"}
		}, want: "settled 1; keep default"},
		"pruning is off":       {files: []File{file("a", "x")}, before: []string{"x", "y"}, change: func(in *Input) { in.Prune = false }, want: "settled 1; held 1: pruning is switched off"},
		"one file is broken":   {files: []File{file("a", "x"), unreadable}, before: []string{"x", "y"}, want: "settled 1; held 1: not all files could be read; fail bad.yaml"},
		"twice":                {files: []File{file("a", "x"), file("b", "x")}, before: []string{"x", "y"}, want: "settled 1; held 1: not all files could be read; fail b"},
		"unread":               {files: []File{file("a", "x")}, before: []string{"x", "y"}, change: func(in *Input) { in.Unread = errors.New("gone") }, want: "settled 1; held 1: the directory could not be read"},
		"never read":           {before: []string{"x"}, change: func(in *Input) { in.Unread = errors.New("gone") }, want: "held 1: the directory could not be read"},
		"empty":                {before: []string{"x", "y"}, want: "held 2: the directory holds no manifests"},
		"nothing but comments": {files: []File{{Path: "a"}}, before: []string{"x"}, want: "held 1: the directory holds no manifests"},
		"empty at first":       {want: ""},

		"most of few":       {files: []File{file("a", "s00")}, before: many(6), want: "settled 1; prune s01 s02 s03 s04 s05"},
		"half of many":      {files: []File{file("a", many(6)...)}, before: many(12), want: "settled 6; prune s06 s07 s08 s09 s10 s11"},
		"most of many":      {files: []File{file("a", many(5)...)}, before: many(12), want: "settled 5; held 7: 7 of 12 objects would be deleted at once for 4m0s"},
		"most, after while": {files: []File{file("a", many(5)...)}, before: many(12), change: func(in *Input) { in.Unchanged = in.Hold }, want: "settled 5; prune s05 s06 s07 s08 s09 s10 s11"},
		"no hold":           {files: []File{file("a", many(5)...)}, before: many(12), change: func(in *Input) { in.Hold, in.Unchanged = 0, 0 }, want: "settled 5; prune s05 s06 s07 s08 s09 s10 s11"},
		"protected ones and copies do not count for more": {files: []File{file("a", many(5)...)}, before: many(12), change: live("s11", func(l *Live) { l.Mark = "" }), want: "settled 5; held 6: 6 of 11 objects would be deleted at once for 4m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			in := Input{Source: testSource, Files: c.files, Prune: true, Unchanged: time.Minute, Hold: 5 * time.Minute}
			in.Live, in.Records = settled(c.before...)
			if c.change != nil {
				c.change(&in)
			}
			if got := summary(Decide(in)); got != c.want && (!strings.Contains(c.want, "held") || !alike(got, c.want)) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// alike compares summaries of which the sentence about what is held is cut.
func alike(got, want string) bool {
	g, w := strings.Split(got, "; "), strings.Split(want, "; ")
	return slices.EqualFunc(g, w, func(a, b string) bool {
		head, tail, cut := strings.Cut(b, " for ")
		return a == b || strings.HasPrefix(b, "held") && strings.HasPrefix(a, head) && (!cut || strings.HasSuffix(a, " for "+tail))
	})
}

func live(name string, change func(*Live)) func(*Input) {
	return func(in *Input) {
		l := in.Live[id(name)]
		change(&l)
		in.Live[id(name)] = l
	}
}

// summary of a plan.
func summary(p Plan) string {
	var parts []string
	add := func(word string, names []string) {
		if len(names) > 0 {
			parts = append(parts, word+" "+strings.Join(names, " "))
		}
	}
	if p.Settled > 0 {
		parts = append(parts, fmt.Sprintf("settled %d", p.Settled))
	}
	add("apply", each1(p.Apply, func(t Target) string { return t.GetName() }))
	add("wait", each1(p.Waiting, func(i manifest.Identity) string { return i.Name }))
	add("prune", each1(p.Prune, func(l Live) string { return l.Name }))
	add("keep", each1(p.Kept, func(i manifest.Identity) string { return i.Name }))
	if p.Held != "" {
		held := fmt.Sprintf("held %d: %s", p.HeldCount, p.Held)
		if p.HeldFor > 0 {
			held += " for " + p.HeldFor.String()
		}
		parts = append(parts, held)
	}
	add("fail", each1(p.Failures, func(f Failure) string { return f.Path }))
	return strings.Join(parts, "; ")
}

func each1[T any](all []T, name func(T) string) (names []string) {
	for _, one := range all {
		names = append(names, name(one))
	}
	return names
}

// TestApplied: what is applied is labelled, and what was read stays as it was.
func TestApplied(t *testing.T) {
	f := file("a", "x")
	f.Objects[0].SetLabels(map[string]string{"app": "y"})
	p := Decide(Input{Source: testSource, Files: []File{f}})
	if got := p.Apply[0].GetLabels(); got["app"] != "y" || got[v1.LabelManifests] != testSource {
		t.Errorf("labels %v", got)
	}
	if got := f.Objects[0].GetLabels(); len(got) != 1 {
		t.Errorf("the file's object has labels %v", got)
	}
}

func TestMark(t *testing.T) {
	entry := func(manager string, operation metav1.ManagedFieldsOperationType, subresource, fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, Operation: operation, Subresource: subresource, APIVersion: "sandboxd.dev/v1", FieldsV1: metav1.NewFieldsV1(fields)}
	}
	apply, update := metav1.ManagedFieldsOperationApply, metav1.ManagedFieldsOperationUpdate
	ours := markOf([]metav1.ManagedFieldsEntry{entry(FieldManager, apply, "", `{"f:spec":{}}`)})
	if ours == "" {
		t.Fatal("no mark")
	}
	for name, c := range map[string]struct {
		entries []metav1.ManagedFieldsEntry
		same    bool
	}{
		"beside others":  {[]metav1.ManagedFieldsEntry{entry("kubectl", update, "", `{"f:metadata":{}}`), entry(FieldManager, apply, "", `{"f:spec":{}}`)}, true},
		"of others":      {[]metav1.ManagedFieldsEntry{entry("kubectl", apply, "", `{"f:spec":{}}`)}, false},
		"updated":        {[]metav1.ManagedFieldsEntry{entry(FieldManager, update, "", `{"f:spec":{}}`)}, false},
		"of the status":  {[]metav1.ManagedFieldsEntry{entry(FieldManager, apply, "status", `{"f:spec":{}}`)}, false},
		"of less fields": {[]metav1.ManagedFieldsEntry{entry(FieldManager, apply, "", `{}`)}, false},
		"none":           {nil, false},
	} {
		if got := markOf(c.entries) == ours; got != c.same {
			t.Errorf("%s: same %v", name, got)
		}
	}
}
