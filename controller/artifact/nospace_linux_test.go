package artifact

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"sandboxd.dev/sandboxd/test/smalldisk"
)

// TestWriteOnFullDisk: an artifact that finds no space leaves the one that was there,
// and nothing else.
func TestWriteOnFullDisk(t *testing.T) {
	smalldisk.Run(t, "1m", func(t *testing.T, d smalldisk.Disk) {
		const max = 1 << 20
		if _, err := Write(d.Dir, "a.tar", max, fill("the first")); err != nil {
			t.Fatal(err)
		}
		d.Fill(8 << 10)
		second := strings.Repeat("x", 100<<10)
		if _, err := Write(d.Dir, "a.tar", max, fill(second)); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("on a full disk: %v", err)
		}
		expect(t, d.Dir, "a.tar", "the first")
		if names := d.Names(); len(names) != 1 {
			t.Errorf("left are %q", names)
		}
		d.Empty()
		if _, err := Write(d.Dir, "a.tar", max, fill(second)); err != nil {
			t.Errorf("with room again: %v", err)
		}
		expect(t, d.Dir, "a.tar", second)
	})
}
