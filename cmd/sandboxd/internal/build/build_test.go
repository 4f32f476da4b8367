package build

import "testing"

func TestSemantic(t *testing.T) {
	for described, want := range map[string]string{
		"v1.2.3":                             "v1.2.3",
		"v1.2.3-4-gabcdef0-dirty":            "v1.2.3-4-gabcdef0-dirty",
		"v0.0.0-20260101000000-abcdef012345": "v0.0.0-20260101000000-abcdef012345",
		"03f8871":                            "v0.0.0-g03f8871",
		"03f8871-dirty":                      "v0.0.0-g03f8871-dirty",
		"unknown":                            "v0.0.0-gunknown",
		unknown:                              unknown,
	} {
		if got := semantic(described); got != want {
			t.Errorf("%s: got %s, want %s", described, got, want)
		}
		if got := Info(described).GitVersion; got != want {
			t.Errorf("%s: the build says %s, want %s", described, got, want)
		}
	}
}
