package fetch

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/test/smalldisk"
)

// TestGetOnFullDisk: a download that does not fit, or that somebody else takes the
// space of, says where there is too little, leaves nothing, and works with room again.
func TestGetOnFullDisk(t *testing.T) {
	smalldisk.Run(t, "100m", func(t *testing.T, d smalldisk.Disk) {
		file := content()
		s := serve(t, good(file, "ETag", `"a"`))
		r := Request{Object: "image", URL: s.URL, Dir: filepath.Join(d.Dir, "download"), MaxBytes: 1 << 30}
		refused := func(when string) {
			t.Helper()
			if _, err := Get(t.Context(), r); !errors.Is(err, providers.ErrCapacity) || !strings.Contains(err.Error(), d.Dir) {
				t.Errorf("%s: %v", when, err)
			}
			if names := d.Names(); len(names) > 0 {
				t.Errorf("%s: left are %q", when, names)
			}
		}
		d.Fill(Margin)
		refused("before it begins")
		d.Empty()
		taken := false
		r.Progress = func(done, _ int64) {
			if done >= block && !taken {
				taken = true
				d.Fill(0)
			}
		}
		refused("in the middle")
		d.Empty()
		got, err := Get(t.Context(), r)
		if err != nil || got.Digest != digestOf(file) {
			t.Errorf("with room again: %+v, %v", got, err)
		}
	})
}
