package apiserver_test

import (
	"encoding/json"
	"net/url"
	"reflect"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	clocktesting "k8s.io/utils/clock/testing"

	"sandboxd.dev/sandboxd/apiserver"
)

// odd are objects whose texts look like the JSON around them.
func odd(a api) []string {
	texts := []string{`{`, `}`, `"`, `\`, `\"}`, `"},"kind":"x"`, "\u2028\n\t<&>", `\\"`, "ü", `{"app":"web"}`}
	var names []string
	for i, text := range texts {
		name := string(rune('a'+i)) + "-odd"
		u := with(sandbox(name), text, "metadata", "annotations", "text")
		u = with(u, "tiny", "metadata", "labels", "app.kubernetes.io/name")
		u = with(u, []string{"web", "db", ""}[i%3], "metadata", "labels", "app")
		u = with(u, []string{"tiny", "web", "other"}[i%3], "spec", "image")
		a.do("POST", sandboxes, u).want(201)
		names = append(names, name)
	}
	a.do("POST", sandboxes, sandbox("plain")).want(201)
	return append(names, "plain")
}

// timeless has no time pass, so that the ages of two tables are the same.
func timeless(o *apiserver.Options) { o.Clock = clocktesting.NewFakeClock(time.Now()) }

// TestListForms checks that a list has of each object what reading it alone gives,
// in every form: lists are written without decoding where that goes.
func TestListForms(t *testing.T) {
	a := newAPI(t, timeless)
	names := odd(a)
	for _, form := range []struct{ accept, single, items string }{
		{"application/json", "application/json", "items"},
		{asPartialList, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", "items"},
		{asTable, asTable, "rows"},
	} {
		for _, include := range []string{"", "?includeObject=None", "?includeObject=Object"} {
			got := a.do("GET", sandboxes+include, nil, "Accept", form.accept).want(200)
			if !json.Valid(got.body) {
				t.Fatalf("%s is no JSON: %s", form.accept, got.body)
			}
			items := got.field(form.items).([]any)
			if len(items) != len(names) {
				t.Fatalf("%s has %d of %d objects", form.accept, len(items), len(names))
			}
			for i, name := range names {
				one := a.do("GET", sandboxes+"/"+name+include, nil, "Accept", form.single).want(200)
				var want any
				if form.items == "rows" {
					want = one.field("rows").([]any)[0]
				} else {
					want = one.object().Object
				}
				if !reflect.DeepEqual(items[i], want) {
					t.Errorf("%s%s lists\n%v and reads\n%v", form.accept, include, items[i], want)
				}
			}
		}
	}
}

// TestSelectorsAgree checks that what is passed over without decoding it is what
// does not match.
func TestSelectorsAgree(t *testing.T) {
	a := newAPI(t)
	odd(a)
	all := a.get(sandboxes).field("items").([]any)
	for _, text := range []string{
		"app=web", "app==db", "app!=web", "app in (web,db)", "app in (web)", "app notin (web)", "app", "!app", "app=",
		"app.kubernetes.io/name=tiny,app=db", "app.kubernetes.io/name", "name=tiny", "app gt 1", "app>1",
	} {
		sel, err := labels.Parse(text)
		if err != nil {
			continue
		}
		compare(t, a, "labelSelector", text, all, func(u *unstructured.Unstructured) bool { return sel.Matches(labels.Set(u.GetLabels())) })
	}
	for _, text := range []string{"spec.image=web", "spec.image!=web", "spec.image=", "spec.image=other,metadata.name!=c-odd", "spec.image=none"} {
		sel, err := fields.ParseSelector(text)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, a, "fieldSelector", text, all, func(u *unstructured.Unstructured) bool {
			image, _, _ := unstructured.NestedString(u.Object, "spec", "image")
			return sel.Matches(fields.Set{"spec.image": image, "metadata.name": u.GetName()})
		})
	}
}

func compare(t *testing.T, a api, parameter, text string, all []any, matches func(*unstructured.Unstructured) bool) {
	t.Helper()
	var want []any
	for _, item := range all {
		if matches(&unstructured.Unstructured{Object: item.(map[string]any)}) {
			want = append(want, item)
		}
	}
	got, _ := a.get(sandboxes + "?" + parameter + "=" + url.QueryEscape(text)).want(200).field("items").([]any)
	if len(got) != len(want) || len(want) > 0 && !reflect.DeepEqual(got, want) {
		t.Errorf("%s %q selects %d objects of %d", parameter, text, len(got), len(want))
	}
}
