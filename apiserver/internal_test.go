package apiserver

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"pgregory.net/rapid"
)

// jsonValue draws a value as the JSON decoder makes them.
func jsonValue(depth int) *rapid.Generator[any] {
	leaves := []*rapid.Generator[any]{
		rapid.Just[any](nil), rapid.Bool().AsAny(), rapid.Int64().AsAny(), rapid.String().AsAny(),
		rapid.StringMatching(`[a-z"\\<>&/\x00-\x1f\x{2028}é]*`).AsAny(),
		rapid.Float64Range(-1e300, 1e300).Filter(func(f float64) bool { return f != float64(int64(f)) }).AsAny(),
	}
	if depth == 0 {
		return rapid.OneOf(leaves...)
	}
	return rapid.OneOf(append(leaves,
		rapid.MapOfN(rapid.String(), jsonValue(depth-1), 0, 4).AsAny(),
		rapid.SliceOfN(jsonValue(depth-1), 0, 4).AsAny())...)
}

func jsonObject() *rapid.Generator[map[string]any] {
	return rapid.MapOfN(rapid.String(), jsonValue(2), 0, 5)
}

// canonical is a value after one trip through JSON.
func canonical(t *rapid.T, v any) map[string]any {
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]any{}
	if err := utiljson.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestStoredFormKeepsObjects checks that whatever is stored comes back, in both
// the decoded and the served form.
func TestStoredFormKeepsObjects(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		obj := canonical(t, jsonObject().Draw(t, "object"))
		meta := canonical(t, jsonObject().Draw(t, "metadata"))
		meta["name"] = "n"
		obj["metadata"] = meta
		delete(meta, "resourceVersion")
		stored, err := encodeStored(obj)
		if err != nil {
			t.Fatal(err)
		}
		again, err := encodeStored(runtime.DeepCopyJSON(obj))
		if err != nil || string(again) != string(stored) {
			t.Fatalf("equal objects are stored as %s and %s", stored, again)
		}
		decoded, err := decodeStored(stored, 42)
		if err != nil {
			t.Fatalf("%v: %s", err, stored)
		}
		raw, err := served(stored, 42)
		if err != nil {
			t.Fatal(err)
		}
		shown := map[string]any{}
		if err := utiljson.Unmarshal(raw, &shown); err != nil {
			t.Fatalf("%v: %s", err, raw)
		}
		meta["resourceVersion"] = "42"
		if !reflect.DeepEqual(decoded.Object, obj) || !reflect.DeepEqual(shown, obj) {
			t.Fatalf("stored\n%v\nread\n%v\nserved\n%v", obj, decoded.Object, shown)
		}
		// The version of the object itself is never stored.
		if again, err := encodeStored(obj); err != nil || string(again) != string(stored) {
			t.Fatalf("the version is stored: %s (%v)", again, err)
		}
	})
}

func TestStoredFormRefuses(t *testing.T) {
	for _, obj := range []map[string]any{{}, {"metadata": nil}, {"metadata": map[string]any{}}, {"metadata": "x"}} {
		if raw, err := encodeStored(obj); err == nil {
			t.Errorf("%v is stored as %s", obj, raw)
		}
	}
	for _, value := range []string{"", "{}", `{"kind":"x","metadata":{"name":"n"}}`} {
		if _, err := served([]byte(value), 1); err == nil {
			t.Errorf("%q is served", value)
		}
	}
	if _, err := decodeStored([]byte(`{"metadata":`), 1); err == nil {
		t.Error("broken JSON is decoded")
	}
	if raw, err := encodeStored(map[string]any{"metadata": map[string]any{"name": "n"}}); err != nil || string(raw) != `{"metadata":{"name":"n"}}` {
		t.Errorf("the least object is stored as %s: %v", raw, err)
	}
}

// TestMergeInto holds merge patches against the examples of RFC 7386 whose
// target and patch are objects.
func TestMergeInto(t *testing.T) {
	for _, c := range [][3]string{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"e":null}`, `{"a":1}`, `{"e":null,"a":1}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		{`{"a":"foo"}`, `{"a":{"b":1}}`, `{"a":{"b":1}}`},
	} {
		var target, patch, want map[string]any
		for i, into := range []*map[string]any{&target, &patch, &want} {
			if err := utiljson.Unmarshal([]byte(c[i]), into); err != nil {
				t.Fatal(err)
			}
		}
		before := runtime.DeepCopyJSON(patch)
		if got := mergeInto(target, patch); !reflect.DeepEqual(got, want) {
			t.Errorf("%s with %s makes %v where %s was expected", c[0], c[1], got, c[2])
		}
		if !reflect.DeepEqual(patch, before) {
			t.Errorf("the patch %s was altered", c[1])
		}
	}
}

// TestCoerceMetadata checks that metadata comes out as decoding into its Go
// type and back would make it.
func TestCoerceMetadata(t *testing.T) {
	member := rapid.OneOf(
		rapid.SampledFrom([]string{"name", "namespace", "generateName", "uid", "selfLink", "resourceVersion"}),
		rapid.SampledFrom([]string{"labels", "annotations", "finalizers", "ownerReferences", "generation", "deletionGracePeriodSeconds", "creationTimestamp", "deletionTimestamp"}))
	value := rapid.OneOf(
		rapid.Just[any](nil), rapid.Just[any](""), rapid.Just[any]("x"), rapid.Just[any](int64(3)), rapid.Just[any](true), rapid.Just[any](1.5),
		rapid.Just[any]("2026-01-02T03:04:05Z"), rapid.Just[any]("2026-01-02T03:04:05+02:00"), rapid.Just[any](map[string]any{}), rapid.Just[any]([]any{}),
		rapid.Just[any](map[string]any{"a": "b"}), rapid.Just[any](map[string]any{"a": nil}), rapid.Just[any](map[string]any{"a": int64(1)}),
		rapid.Just[any]([]any{"a", "b"}), rapid.Just[any]([]any{"a", int64(1)}),
		rapid.Just[any]([]any{map[string]any{"apiVersion": "v1", "kind": "K", "name": "n", "uid": "u"}}))
	rapid.Check(t, func(t *rapid.T) {
		meta := rapid.MapOfN(member, value, 0, 6).Draw(t, "metadata")
		raw, _ := json.Marshal(meta)
		typed := metav1.ObjectMeta{}
		typedErr := utiljson.Unmarshal(raw, &typed)
		obj := map[string]any{"metadata": runtime.DeepCopyJSON(meta)}
		unknown, err := coerceMetadata(obj, nil)
		if (err != nil) != (typedErr != nil) {
			t.Fatalf("%s gives %v where the type gives %v", raw, err, typedErr)
		}
		if err != nil {
			return
		}
		if len(unknown) != 0 {
			t.Fatalf("%s has unknown members %v", raw, unknown)
		}
		// Zero numbers and empty lists may be left out or not: compare as types.
		coerced, _ := json.Marshal(obj["metadata"])
		again := metav1.ObjectMeta{}
		if err := utiljson.Unmarshal(coerced, &again); err != nil {
			t.Fatal(err)
		}
		first, _ := json.Marshal(typed)
		second, _ := json.Marshal(again)
		if string(first) != string(second) {
			t.Fatalf("%s becomes %s where %s was expected", raw, second, first)
		}
	})
	obj := map[string]any{"metadata": map[string]any{"nmae": "x", "labels": map[string]any{"a": "b"}, "ownerReferences": []any{map[string]any{"nmae": "y", "uid": "u"}}}}
	unknown, err := coerceMetadata(obj, nil)
	if err != nil || !reflect.DeepEqual(unknown, []string{"metadata.nmae", "metadata.ownerReferences[0].nmae"}) {
		t.Errorf("the unknown members are %v: %v", unknown, err)
	}
}

func TestParseTarget(t *testing.T) {
	group, core := schema.GroupVersion{Group: "g", Version: "v1"}, schema.GroupVersion{Version: "v1"}
	for _, c := range []struct {
		gv   schema.GroupVersion
		path string
		want target
		ok   bool
	}{
		{group, "things", target{resource: "things"}, true},
		{group, "things/a", target{resource: "things", name: "a"}, true},
		{group, "things/a/status", target{resource: "things", name: "a", subresource: "status"}, true},
		{group, "namespaces/n/things", target{namespace: "n", resource: "things"}, true},
		{group, "namespaces/n/things/a", target{namespace: "n", resource: "things", name: "a"}, true},
		{group, "namespaces/n/things/a/exec", target{namespace: "n", resource: "things", name: "a", subresource: "exec"}, true},
		{group, "namespaces/n/status", target{namespace: "n", resource: "status"}, true},
		{core, "namespaces", target{resource: "namespaces"}, true},
		{core, "namespaces/n", target{resource: "namespaces", name: "n"}, true},
		{core, "namespaces/n/status", target{resource: "namespaces", name: "n", subresource: "status"}, true},
		{core, "namespaces/n/secrets", target{namespace: "n", resource: "secrets"}, true},
		{group, "namespaces/n/things/a/b/c", target{}, false},
		{group, "a/b/c/d", target{}, false},
		{group, "", target{}, false},
		{group, "things//x", target{}, false},
		{group, "things/..", target{}, false},
		{group, "things/a%2Fb", target{}, false},
		{group, "things/a\x00b", target{}, false},
	} {
		got, ok := parseTarget(c.gv, strings.Split(c.path, "/"))
		if c.ok {
			c.want.gv = c.gv
		}
		if ok != c.ok || got != c.want {
			t.Errorf("%s of %v is %+v, %v", c.path, c.gv, got, ok)
		}
	}
}

func TestNegotiate(t *testing.T) {
	for header, want := range map[string]accept{
		"":                       {},
		"*/*":                    {},
		"application/json":       {},
		"application/json;q=0.9": {},
		"application/yaml":       {yaml: true},
		"application/json;as=Table;v=v1;g=meta.k8s.io,application/json":                                                {form: formTable},
		"application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json":                                           {},
		"application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io":                                             {form: formPartial},
		"application/vnd.kubernetes.protobuf, */*":                                                                     {},
		"application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1;g=meta.k8s.io": {form: formTable},
		"application/json;as=Chair;v=v1;g=meta.k8s.io, application/json":                                               {},
	} {
		if got, err := negotiate(header); err != nil || got != want {
			t.Errorf("%q gives %+v, %v", header, got, err)
		}
	}
	for _, header := range []string{"text/html", "application/json;as=Chair", ";;;", "application/json;as=Table;v=v1;g=other"} {
		if got, err := negotiate(header); err == nil {
			t.Errorf("%q gives %+v", header, got)
		} else if code := statusOf(err).Code; code != http.StatusNotAcceptable {
			t.Errorf("%q is refused with %d", header, code)
		}
	}
}

// TestEventViewIsReversible checks that an event survives a trip through the
// other form.
func TestEventViewIsReversible(t *testing.T) {
	v := eventView(nil)
	rapid.Check(t, func(t *rapid.T) {
		event := map[string]any{"apiVersion": "v1", "kind": "Event"}
		for _, names := range eventNames {
			if rapid.Bool().Draw(t, names[0]) {
				event[names[0]] = rapid.String().Draw(t, "value")
			}
		}
		other := runtime.DeepCopyJSON(event)
		v.to(other)
		if other["apiVersion"] != "events.k8s.io/v1" || len(other) != len(event) {
			t.Fatalf("%v became %v", event, other)
		}
		v.from(other)
		if !reflect.DeepEqual(event, other) {
			t.Fatalf("%v came back as %v", event, other)
		}
	})
}

func TestBeyondMetadata(t *testing.T) {
	for rule, want := range map[string]bool{
		"size(self.metadata.name) <= 63":                          false,
		"self.metadata.name == oldSelf.metadata.name":             false,
		"self.metadata.name == self.spec.name":                    true,
		"self.metadataOf == 'x'":                                  true,
		"self == oldSelf":                                         true,
		"has(self.status) || self.metadata.name.startsWith('x')":  true,
		"[self].all(x, x.spec.a == 1)":                            true,
		"myself.metadata == 1 && 'itself' != self.metadata.name":  false,
		"oldSelf.spec.a == 1":                                     true,
		"self . spec.a == 1":                                      true,
		"duration('1s') < duration('2s')":                         false,
		"self.metadata.name != '' && self['spec'].a == 1":         true,
		"[1, 2].exists(i, i == size(self.metadata.generateName))": false,
	} {
		if got := beyondMetadata(apiextensionsv1.ValidationRule{Rule: rule}); got != want {
			t.Errorf("%s: %v", rule, got)
		}
	}
}
