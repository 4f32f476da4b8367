package hostpath_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzPath: whatever path a manifest names, what comes of it lies below a root,
// outside of the daemon's own, and is reached without any symlink.
func FuzzPath(f *testing.F) {
	base, p := tree(f)
	for _, s := range []string{"rootlink/dir", "real/../secret/file", "rootlink/outside/dir", "rootlink/filelink", "rootlink/state/x", "realistic", "rootlink//dir/.", "rootlink/bell\a", "images/escape.qcow2"} {
		f.Add(base + "/" + s)
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		for _, resolve := range []func(string) (string, error){p.Dir, p.File, p.Layout} {
			got, err := resolve(path)
			if err != nil {
				continue
			}
			if real, err := filepath.EvalSymlinks(got); err != nil || real != got {
				t.Fatalf("%q becomes %q, which is %q, %v", path, got, real, err)
			}
			if got != base+"/real" && !strings.HasPrefix(got, base+"/real/") && got != base+"/images" && !strings.HasPrefix(got, base+"/images/") {
				t.Fatalf("%q becomes %q", path, got)
			}
			if strings.HasPrefix(got, base+"/real/state") {
				t.Fatalf("%q becomes %q, the daemon's own", path, got)
			}
			if _, err := os.Lstat(got); err != nil {
				t.Fatal(err)
			}
		}
	})
}
