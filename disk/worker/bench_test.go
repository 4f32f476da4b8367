package worker

import (
	"path/filepath"
	"strings"
	"testing"

	"sandboxd.dev/sandboxd/disk/change"
)

// BenchmarkDiff compares a root of 64 MB, in some 3000 files, with an overlay of it in
// which a few of them have changed, process and all.
func BenchmarkDiff(b *testing.B) {
	tree, raw := filepath.Join(b.TempDir(), "tree"), filepath.Join(b.TempDir(), "root.raw")
	for dir := range 100 {
		for n := range 30 {
			write(b, filepath.Join(tree, "usr", string(rune('a'+dir%26))+strings.Repeat("x", dir/26), "file"+strings.Repeat("y", n)), strings.Repeat("content ", 2700))
		}
	}
	makeFS(b, raw, tree, "128M", "-b", "4096")
	golden, top := filepath.Join(b.TempDir(), "golden.qcow2"), filepath.Join(b.TempDir(), "top.qcow2")
	run(b, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, golden)
	run(b, "qemu-img", "create", "-q", "-f", "qcow2", "-b", golden, "-F", "qcow2", top)
	run(b, "qemu-io", "-f", "qcow2", "-c", "write -P 1 40M 1M", top)
	r := New(Options{})
	for b.Loop() {
		changes := 0
		err := r.Diff(b.Context(), open(b, "qcow2", golden), open(b, "qcow2", top, golden), false, func(l change.Line) error {
			changes++
			return nil
		})
		if err != nil || changes == 0 {
			b.Fatal(changes, err)
		}
	}
}
