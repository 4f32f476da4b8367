package store

import (
	"errors"
	"strings"
	"testing"
)

func TestKeyValidate(t *testing.T) {
	long := strings.Repeat("x", MaxKeyPart)
	tests := []struct {
		key  Key
		want string // part of the message; empty means valid
	}{
		{Key{"sandboxes.sandboxd.dev", "default", "a"}, ""},
		{Key{"namespaces", "", "default"}, ""},
		{Key{long, long, long}, ""},
		{Key{"", "default", "a"}, "the resource is empty"},
		{Key{"pods", "default", ""}, `invalid key "pods/default/": the name is empty`},
		{Key{"po/ds", "default", "a"}, `the resource "po/ds" has a '/' or a zero byte`},
		{Key{"pods", "de\x00fault", "a"}, `the namespace "de\x00fault" has a '/' or a zero byte`},
		{Key{"pods", "default", "../a"}, `the name "../a" has a '/' or a zero byte`},
		{Key{"pods", "default", long + "x"}, "the name has 1025 bytes, at most 1024 are allowed"},
		{Key{"pods", long + "x", "a"}, "the namespace has 1025 bytes"},
		{Key{long + "x", "default", "a"}, "the resource has 1025 bytes"},
	}
	for _, tt := range tests {
		err := tt.key.Validate()
		if tt.want == "" {
			if err != nil {
				t.Errorf("%q: %v, want it valid", tt.key, err)
			}
			continue
		}
		if !errors.Is(err, ErrInvalidKey) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, want ErrInvalidKey with %q", tt.key, err, tt.want)
		}
	}
}

func TestKeyString(t *testing.T) {
	for want, key := range map[string]Key{
		"pods/default/a":     {"pods", "default", "a"},
		"namespaces/default": {"namespaces", "", "default"},
	} {
		if got := key.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
