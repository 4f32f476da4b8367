package audit_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"sandboxd.dev/sandboxd/audit"
	"sandboxd.dev/sandboxd/test/smalldisk"
)

// TestFullDisk: on a full disk each line is told, lines wait and none is half
// written; with room again they are there in order.
func TestFullDisk(t *testing.T) {
	smalldisk.Run(t, "1m", func(t *testing.T, d smalldisk.Disk) {
		path := filepath.Join(d.Dir, "audit.log")
		failed := 0
		l := open(t, path, func(o *audit.Options) {
			o.MaxSize, o.Failed = 1<<30, func(error, []byte) { failed++ }
		})
		n := 0
		record := func() {
			l.Record([]byte(fmt.Sprintf("%04d %s", n, strings.Repeat("x", 300))))
			n++
		}
		record()
		if err := l.Ready(); err != nil {
			t.Fatal(err)
		}
		d.Fill(0)
		for range 100 {
			record()
		}
		err := l.Ready()
		if err == nil || !strings.Contains(err.Error(), "audit log "+path+": no space left on device") || failed == 0 {
			t.Fatalf("on a full disk the log is ready: %v, %d were told", err, failed)
		}
		d.Empty()
		if err := l.Ready(); err != nil {
			t.Fatal(err)
		}
		record()
		lines := read(t, path, 1)
		for i, line := range lines {
			if !strings.HasPrefix(line, fmt.Sprintf("%04d ", i)) || len(line) != 305 {
				t.Fatalf("line %d is %q", i, line)
			}
		}
		if len(lines) != n {
			t.Errorf("%d lines of %d are there", len(lines), n)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}
