package apiserver

import (
	"strings"
	"testing"
)

func TestPlausible(t *testing.T) {
	for text, want := range map[string]bool{
		"": true, "512Mi": true, "1": true, "1e3": true, "1E18": true, "+1.5e-3": true, "2Ei": true, "3E": true, "1e0000012": true,
		"1e100": false, "1e999999999": false, "1E+999999999": false, ".5e-999999999": false, "1e9.99": false,
		strings.Repeat("9", 65): false,
		// What is no number is judged by others.
		"web": true, "service1234": true, "e12345": true, "a1e2345": true,
	} {
		if plausible(text) != want {
			t.Errorf("%q is plausible: %v", text, !want)
		}
	}
}
