package private

import (
	"os"
	"path/filepath"
	"testing"
)

// TestGone: a service that ends when no machine holds it has not crashed.
func TestGone(t *testing.T) {
	held := sight{services: map[int]bool{7: true}, held: true}
	for name, tc := range map[string]struct {
		last, now sight
		want      int
	}{
		"stays":            {held, held, 0},
		"crashes":          {held, sight{}, 1},
		"another at once":  {held, sight{services: map[int]bool{8: true}}, 1},
		"let go":           {sight{services: map[int]bool{7: true}}, sight{}, 0},
		"there was none":   {sight{held: true}, sight{}, 0},
		"one has appeared": {sight{held: true}, held, 0},
	} {
		if got := gone(tc.last, tc.now); len(got) != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestCrashed: hack/test-virtualbox reads the names of whole tests.
func TestCrashed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "crashes")
	t.Setenv(crashesFile, path)
	t.Run("part", func(t *testing.T) { Crashed(t, "for a test") })
	if b, err := os.ReadFile(path); err != nil || string(b) != "TestCrashed\n" {
		t.Errorf("noted is %q, %v", b, err)
	}
}
