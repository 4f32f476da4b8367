package apiserver

import (
	v1 "sandboxd.dev/sandboxd/api/v1"
	"testing"
)

func BenchmarkNewValidator(b *testing.B) {
	for range b.N {
		if _, err := NewValidator(v1.CRDs); err != nil {
			b.Fatal(err)
		}
	}
}
