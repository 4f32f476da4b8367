package goldenimage

import (
	"testing"

	"sandboxd.dev/sandboxd/providers"
)

func TestProgressMessage(t *testing.T) {
	for want, p := range map[string]*providers.Progress{
		"the import is about to begin": nil,
		"downloading":                  {Stage: "downloading"},
		"downloading: 42% of 64Mi":     {Stage: "downloading", Done: 27 << 20, Total: 64 << 20},
		"downloading: 0% of 12Gi":      {Stage: "downloading", Total: 12 << 30},
		"downloading: 99% of 2048Gi":   {Stage: "downloading", Done: 2<<40 - 1<<30, Total: 2 << 40},
		"downloading: 3Mi so far":      {Stage: "downloading", Done: 3 << 20},
		"downloading: 1Ki so far":      {Stage: "downloading", Done: 5},
		"converting: 100% of 1Mi":      {Stage: "converting", Done: 1 << 20, Total: 1 << 20},
	} {
		if got := progressMessage(p); got != want {
			t.Errorf("%+v: %q, not %q", p, got, want)
		}
	}
}
