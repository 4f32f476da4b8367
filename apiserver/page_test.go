package apiserver_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/pager"
	"sigs.k8s.io/yaml"

	"sandboxd.dev/sandboxd/store/bolt"
)

// part is a page as clients read it, in any form.
type part struct {
	Metadata metav1.ListMeta
	Items    []json.RawMessage
	Rows     []struct {
		Object json.RawMessage
	}
}

func (n answer) part() part {
	n.t.Helper()
	var p part
	if err := yaml.Unmarshal(n.want(200).body, &p); err != nil {
		n.t.Fatal(err)
	}
	for _, row := range p.Rows {
		p.Items = append(p.Items, row.Object)
	}
	return p
}

// places are the namespaces, names and versions of a page's objects.
func (p part) places(t *testing.T) []string {
	t.Helper()
	places := []string{}
	for _, raw := range p.Items {
		var o metav1.PartialObjectMetadata
		if err := json.Unmarshal(raw, &o); err != nil {
			t.Fatal(err)
		}
		places = append(places, o.Namespace+"/"+o.Name+"@"+o.ResourceVersion)
	}
	return places
}

// paged adds parameters to a path.
func paged(path string, limit int, token string) string {
	separator := "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	return path + separator + url.Values{"limit": {fmt.Sprint(limit)}, "continue": {token}}.Encode()
}

// TestPages checks that the pages of a list, in every form, are together what the
// whole list was when the first was read, whatever is written between them.
func TestPages(t *testing.T) {
	a := newAPI(t)
	zoo(a)
	turn := 0
	disturb := func() { // something else each time: changed, made, deleted, made again
		const other = "/apis/sandboxd.dev/v1/namespaces/other/sandboxes"
		switch turn++; turn % 5 {
		case 1:
			a.do("POST", sandboxes, sandbox("s2-new")).want(201)
		case 2:
			a.patch(mergePatch, other+"/s3", fmt.Sprintf(`{"metadata":{"labels":{"turn":"%d"}}}`, turn)).want(200)
			a.do("POST", other, sandbox("a-new")).want(201)
		case 3:
			a.do("DELETE", sandboxes+"/s2-new", nil).want(200)
			a.do("DELETE", other+"/s1", nil).want(200)
		case 4:
			a.do("POST", other, with(sandbox("s1"), "1", "metadata", "labels", "odd")).want(201)
		default:
			a.do("DELETE", other+"/a-new", nil).want(200)
		}
	}
	for _, accept := range []string{"application/json", "application/yaml", asTable, asPartialList} {
		for _, path := range []string{allSandboxes, sandboxes, "/api/v1/pods", allSandboxes + "?labelSelector=odd%3D1", allSandboxes + "?fieldSelector=metadata.name%21%3Ds0"} {
			whole := a.do("GET", path, nil, "Accept", accept).part()
			want := whole.places(t)
			if whole.Metadata.Continue != "" || whole.Metadata.RemainingItemCount != nil || len(want) < 3 {
				t.Fatalf("%s is listed whole as %+v with %v", path, whole.Metadata, want)
			}
			limits := []int{3}
			if accept == "application/json" {
				limits = []int{1, 3, len(want), 100}
			}
			for _, limit := range limits {
				whole = a.do("GET", path, nil, "Accept", accept).part()
				want = whole.places(t)
				var got []string
				for token := ""; ; {
					p := a.do("GET", paged(path, limit, token), nil, "Accept", accept).part()
					got = append(got, p.places(t)...)
					if p.Metadata.ResourceVersion != whole.Metadata.ResourceVersion {
						t.Fatalf("%s has pages of version %s and %s", path, whole.Metadata.ResourceVersion, p.Metadata.ResourceVersion)
					}
					checkRemaining(t, path, p.Metadata, len(want)-len(got))
					if token = p.Metadata.Continue; token == "" {
						break
					}
					if len(p.Items) != limit {
						t.Fatalf("%s with limit %d has a page of %d", path, limit, len(p.Items))
					}
					disturb()
				}
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("%s as %s in pages of %d is\n%v where\n%v was expected", path, accept, limit, got, want)
				}
			}
		}
	}
}

// checkRemaining checks how many objects a page says are left: it need not know
// where a selector picks.
func checkRemaining(t *testing.T, path string, meta metav1.ListMeta, left int) {
	t.Helper()
	switch remaining := meta.RemainingItemCount; {
	case left == 0 || strings.Contains(path, "elector="):
		if remaining != nil {
			t.Errorf("%s: %d are said to remain, of %d", path, *remaining, left)
		}
	case remaining == nil || *remaining != int64(left):
		t.Errorf("%s: %v are said to remain, of %d", path, remaining, left)
	}
	if (meta.Continue == "") != (left == 0) {
		t.Errorf("%s: the token is %q where %d remain", path, meta.Continue, left)
	}
}

// token makes a continue token as the server does, with a change.
func token(t *testing.T, of string, change map[string]any) string {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(of)
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]any{}
	if err := json.Unmarshal(raw, &said); err != nil {
		t.Fatal(err)
	}
	for key, value := range change {
		said[key] = value
	}
	if raw, err = json.Marshal(said); err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

func TestPagesRefused(t *testing.T) {
	a := newAPI(t)
	zoo(a)
	good := a.get(paged(allSandboxes, 2, "")).part().Metadata.Continue
	inDefault := a.get(paged(sandboxes, 2, "")).part().Metadata.Continue
	const another = "it is of another list"
	const unknown = "it is not one of this server"
	for _, c := range []struct{ path, token, part string }{
		{sandboxes, good, another},
		{allSandboxes, inDefault, another},
		{"/apis/sandboxd.dev/v1/namespaces/other/sandboxes", inDefault, another},
		{"/api/v1/pods", good, another},
		{goldenImages, good, another},
		{allSandboxes + "?labelSelector=odd", good, another},
		{allSandboxes + "?fieldSelector=spec.image%3Dx", good, another},
		{allSandboxes + "?resourceVersion=1", good, "specifying resource version is not allowed when using continue"},
		{allSandboxes, "abc", unknown},
		{allSandboxes, "%%%", unknown},
		{allSandboxes, good + "=", unknown},
		{allSandboxes, good[:len(good)-3], unknown},
		{allSandboxes, base64.RawURLEncoding.EncodeToString([]byte(`{"v":"meta.k8s.io/v1","rv":3,"start":"default/s1"}`)), unknown},
		{allSandboxes, base64.RawURLEncoding.EncodeToString([]byte(`null`)), unknown},
		{allSandboxes, token(t, good, map[string]any{"rv": 0}), unknown},
		{allSandboxes, token(t, good, map[string]any{"rv": -2}), unknown},
		{allSandboxes, token(t, good, map[string]any{"name": ""}), unknown},
		{allSandboxes, token(t, good, map[string]any{"name": strings.Repeat("x", 4000)}), "too long"},
	} {
		a.get(paged(c.path, 2, c.token)).refused(400, "BadRequest", c.part)
	}
	for _, limit := range []string{"x", "1.5", "99999999999999999999"} {
		a.get(sandboxes+"?limit="+limit).refused(400, "BadRequest", "is not a number of objects")
	}
	for _, limit := range []string{"0", "-1", "9223372036854775807"} {
		if got := a.get(sandboxes + "?limit=" + limit).part(); len(got.Items) != 4 || got.Metadata.Continue != "" {
			t.Errorf("limit %s gives %d objects", limit, len(got.Items))
		}
	}
	// With another page size, and version 0, it is still the same list.
	if got := a.get(allSandboxes + "?resourceVersion=0&continue=" + good).part(); len(got.Items) != 6 {
		t.Errorf("the rest is %d objects", len(got.Items))
	}
}

// TestPageVersions checks which state a list shows.
func TestPageVersions(t *testing.T) {
	a := newAPI(t)
	zoo(a)
	was := a.get(allSandboxes).part()
	a.do("DELETE", sandboxes+"/s0", nil).want(200)
	is := a.get(allSandboxes).part()
	then, now := was.Metadata.ResourceVersion, is.Metadata.ResourceVersion
	for _, c := range []struct {
		query   string
		version string
		objects int
	}{
		{"?limit=100", now, 7},
		{"?resourceVersion=0&limit=1", now, 7},
		{"?resourceVersion=0&resourceVersionMatch=NotOlderThan&limit=1", now, 7},
		{"?resourceVersion=" + then, now, 7},
		{"?resourceVersion=" + then + "&limit=100", then, 8},
		{"?resourceVersion=" + then + "&limit=2", then, 2},
		{"?resourceVersion=" + then + "&resourceVersionMatch=NotOlderThan&limit=100", now, 7},
		{"?resourceVersion=" + then + "&resourceVersionMatch=Exact", then, 8},
		{"?resourceVersion=" + now + "&resourceVersionMatch=Exact", now, 7},
	} {
		if got := a.get(allSandboxes + c.query).part(); got.Metadata.ResourceVersion != c.version || len(got.Items) != c.objects {
			t.Errorf("%s gives %d objects of version %s where %d of %s were expected", c.query, len(got.Items), got.Metadata.ResourceVersion, c.objects, c.version)
		}
	}
	a.get(allSandboxes+"?limit=2&resourceVersion=999999").refused(504, "Timeout", "Too large resource version")
}

// TestPagesExpired checks the answer to who comes back when the state of the first
// page is gone, by many writes or by a restart, and that the token in it goes on.
func TestPagesExpired(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	st, err := bolt.Open(path, bolt.Options{WatchEvents: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	a := newAPI(t, onStore(st))
	zoo(a)
	first := a.get(paged(sandboxes, 2, "")).part()
	a.do("DELETE", sandboxes+"/s2", nil).want(200)
	if got := a.get(paged(sandboxes, 2, first.Metadata.Continue)).part(); len(got.Items) != 2 {
		t.Fatalf("the second page is %+v", got)
	}
	for i := range 10 {
		a.patch(mergePatch, sandboxes+"/s0", fmt.Sprintf(`{"metadata":{"labels":{"i":"%d"}}}`, i)).want(200)
	}
	goOn := func(a api, token string) {
		t.Helper()
		expired := a.get(paged(sandboxes, 1, token)).refused(410, "Expired", "too old to display a consistent list result", "continue token in this response")
		next, _ := expired.field("metadata", "continue").(string)
		got := a.get(paged(sandboxes, 1, next)).part()
		want := a.get(sandboxes + "/s3").object()
		if places := got.places(t); len(places) != 1 || places[0] != "default/s3@"+want.GetResourceVersion() || got.Metadata.Continue != "" {
			t.Errorf("the rest is %v, %+v", places, got.Metadata)
		}
	}
	goOn(a, first.Metadata.Continue)
	version := first.Metadata.ResourceVersion
	a.get(sandboxes+"?limit=2&resourceVersion="+version).refused(410, "Expired", "too old resource version: "+version)
	a.get(sandboxes+"?resourceVersionMatch=Exact&resourceVersion="+version).refused(410, "Expired", "too old resource version: "+version)
	// A store that was put back to before the first page.
	goOn(a, token(t, first.Metadata.Continue, map[string]any{"rv": 999999}))

	second := a.get(paged(sandboxes, 2, "")).part()
	a.do("POST", "/apis/sandboxd.dev/v1/namespaces/other/sandboxes", sandbox("more")).want(201)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	reopened, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reopened.Close() })
	goOn(newAPI(t, onStore(reopened)), second.Metadata.Continue)
}

// TestPagesOfOthers checks that a token opens nothing: neither one of somebody who may
// see more, nor one that was made up.
func TestPagesOfOthers(t *testing.T) {
	h := newHost(t)
	h.bind("alice", "sandboxd:user", "default")
	owner, err := dynamic.NewForConfig(h.server.LoopbackConfig())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"default/s0", "default/s1", "default/s2", "default/s3", "other/s0", "other/s1"} {
		namespace, name, _ := strings.Cut(name, "/")
		if namespace == "other" && name == "s0" {
			other := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "other"}}}
			if _, err := owner.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).Create(t.Context(), other, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := owner.Resource(sandboxResource).Namespace(namespace).Create(t.Context(), sandbox(name), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	client, err := dynamic.NewForConfig(h.token("alice"))
	if err != nil {
		t.Fatal(err)
	}
	all := client.Resource(sandboxResource)
	whole, err := owner.Resource(sandboxResource).List(t.Context(), metav1.ListOptions{Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	everywhere := whole.GetContinue()
	if list, err := all.List(t.Context(), metav1.ListOptions{Limit: 2, Continue: everywhere}); !apierrors.IsForbidden(err) {
		t.Errorf("with another's token, alice sees %v: %v", list, err)
	}
	if list, err := all.Namespace("default").List(t.Context(), metav1.ListOptions{Limit: 2, Continue: everywhere}); !apierrors.IsBadRequest(err) {
		t.Errorf("with the token of another list, alice sees %v: %v", list, err)
	}
	first, err := all.Namespace("default").List(t.Context(), metav1.ListOptions{Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	for namespace, want := range map[string]int{"": 4, "aaa": 4, "default": 2, "other": 0} {
		made := token(t, first.GetContinue(), map[string]any{"ns": namespace})
		list, err := all.Namespace("default").List(t.Context(), metav1.ListOptions{Continue: made})
		if err != nil || len(list.Items) != want {
			t.Fatalf("from %q on, alice sees %v: %v", namespace, list, err)
		}
		for _, item := range list.Items {
			if item.GetNamespace() != "default" {
				t.Errorf("from %q on, alice sees %s/%s", namespace, item.GetNamespace(), item.GetName())
			}
		}
	}
}

// TestDeleteCollectionLimit checks that no more is deleted than was asked for.
func TestDeleteCollectionLimit(t *testing.T) {
	a := newAPI(t)
	zoo(a)
	got := a.do("DELETE", sandboxes+"?limit=2&resourceVersion=0", nil).part()
	if left := a.get(sandboxes).names(); len(got.Items) != 2 || !reflect.DeepEqual(left, []string{"s2", "s3"}) {
		t.Fatalf("%d were deleted, and left are %v", len(got.Items), left)
	}
	got = a.do("DELETE", paged(sandboxes, 1, got.Metadata.Continue), nil).part()
	if left := a.get(sandboxes).names(); len(got.Items) != 1 || !reflect.DeepEqual(left, []string{"s3"}) {
		t.Fatalf("%d were deleted, and left are %v", len(got.Items), left)
	}
	a.do("DELETE", sandboxes+"?limit=x", nil).refused(400, "BadRequest")
	if left := a.get(sandboxes).names(); len(left) != 1 {
		t.Errorf("left are %v", left)
	}
}

// TestPager lets client-go's own pager read a list while others write: in one state,
// and also where that is gone halfway, when it falls back to a whole list.
func TestPager(t *testing.T) {
	st, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"), bolt.Options{WatchEvents: 32})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	s := newServer(t, onStore(st))
	a := api{t: t, handler: s.Handler()}
	for i := range 25 {
		a.do("POST", sandboxes, sandbox(fmt.Sprintf("s%02d", i))).want(201)
	}
	client, err := dynamic.NewForConfig(s.LoopbackConfig())
	if err != nil {
		t.Fatal(err)
	}
	for _, writes := range []int{0, 3, 40} {
		pages := 0
		p := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := client.Resource(sandboxResource).Namespace("default").List(ctx, o)
			pages++
			if pages == 2 {
				for i := range writes {
					a.patch(mergePatch, sandboxes+"/s20", fmt.Sprintf(`{"metadata":{"labels":{"i":"%d-%d"}}}`, writes, i)).want(200)
				}
			}
			return list, err
		})
		p.PageSize = 10
		before := a.get(sandboxes + "/s20").object().GetResourceVersion()
		list, paginated, err := p.ListWithAlloc(t.Context(), metav1.ListOptions{})
		if err != nil || !paginated {
			t.Fatalf("after %d writes: %v, %v", writes, paginated, err)
		}
		versions := map[string]string{}
		if err := eachItem(list, versions); err != nil || len(versions) != 25 {
			t.Fatalf("after %d writes there are %d objects: %v", writes, len(versions), err)
		}
		after := a.get(sandboxes + "/s20").object().GetResourceVersion()
		want, wantPages := before, 3
		if writes > 32 { // the third page was refused, and a whole list followed
			want, wantPages = after, 4
		}
		if versions["s20"] != want || pages != wantPages {
			t.Errorf("after %d writes: %d requests, and s20 is at %s where %s was expected (%s before, %s after)", writes, pages, versions["s20"], want, before, after)
		}
	}
	_, err = client.Resource(sandboxResource).List(t.Context(), metav1.ListOptions{Limit: 1, Continue: "x"})
	var status apierrors.APIStatus
	if !errors.As(err, &status) || !apierrors.IsBadRequest(err) {
		t.Errorf("a bad token ends with %v", err)
	}
}

func eachItem(list runtime.Object, versions map[string]string) error {
	return meta.EachListItem(list, func(o runtime.Object) error {
		u, ok := o.(*unstructured.Unstructured)
		if !ok {
			return fmt.Errorf("an item is a %T", o)
		}
		versions[u.GetName()] = u.GetResourceVersion()
		return nil
	})
}

// BenchmarkPages reads 10,000 objects in pages as kubectl does, and at once.
func BenchmarkPages(b *testing.B) {
	a := newAPI(b)
	for i := range 10_000 {
		a.do("POST", sandboxes, sandbox(fmt.Sprintf("s%05d", rand.N(1<<30)+i))).want(201)
	}
	for _, limit := range []int{0, 500} {
		b.Run(fmt.Sprint("limit=", limit), func(b *testing.B) {
			for b.Loop() {
				for token := ""; ; {
					var p struct{ Metadata metav1.ListMeta }
					if err := json.Unmarshal(a.get(paged(sandboxes, limit, token)).want(200).body, &p); err != nil {
						b.Fatal(err)
					}
					if token = p.Metadata.Continue; token == "" {
						break
					}
				}
			}
		})
	}
}
