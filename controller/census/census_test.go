package census

import (
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestRead(t *testing.T) {
	tests := []struct {
		name, text string
		names      []string
		revision   string
		ok         bool
	}{
		{"objects", `{"kind":"L","metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"},"spec":{"x":[{}]}}]}`, []string{"a", "b"}, "7", true},
		{"in another order", `{"items":[{"metadata":{"name":"a"}}],"other":{"items":[1]},"metadata":{"resourceVersion":"8"}}`, []string{"a"}, "8", true},
		{"none", `{"metadata":{"resourceVersion":"7"},"items":[]}`, nil, "7", true},
		{"none, as null", `{"metadata":{"resourceVersion":"7"},"items":null}`, nil, "7", true},
		{"ends within", `{"metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"a"}},{"meta`, []string{"a"}, "", false},
		{"ends between", `{"metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"a"}}`, []string{"a"}, "", false},
		{"ends behind", `{"metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"a"}}]`, []string{"a"}, "", false},
		{"empty", ``, nil, "", false},
		{"no version", `{"items":[]}`, nil, "", false},
		{"no items", `{"kind":"Sandbox","metadata":{"resourceVersion":"7"},"spec":{}}`, nil, "", false},
		{"a part", `{"metadata":{"resourceVersion":"7","continue":"x"},"items":[]}`, nil, "", false},
		{"no list", `[]`, nil, "", false},
		{"items of another kind", `{"metadata":{"resourceVersion":"7"},"items":{}}`, nil, "", false},
		{"no object", `{"metadata":{"resourceVersion":"7"},"items":[7]}`, nil, "", false},
	}
	for _, tt := range tests {
		for _, from := range []io.Reader{strings.NewReader(tt.text), iotest.OneByteReader(strings.NewReader(tt.text))} {
			var names []string
			revision, err := read(from, func(o *metav1.PartialObjectMetadata) { names = append(names, o.Name) })
			if (err == nil) != tt.ok || revision != tt.revision || !slices.Equal(names, tt.names) {
				t.Errorf("%s: %q, revision %q, %v", tt.name, names, revision, err)
			}
		}
	}
}
