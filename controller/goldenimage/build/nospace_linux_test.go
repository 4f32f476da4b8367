package build

import (
	"io"
	"os"
	"strings"
	"testing"

	"sandboxd.dev/sandboxd/test/smalldisk"
)

// TestLogOnFullDisk: what finds no space in a build's log is missing there, and said
// to be; the build and the rest of its log go on.
func TestLogOnFullDisk(t *testing.T) {
	smalldisk.Run(t, "1m", func(t *testing.T, d smalldisk.Disk) {
		logs := NewLogs(d.Dir)
		w, err := logs.Create("a")
		if err != nil {
			t.Fatal(err)
		}
		r, err := logs.Open(t.Context(), "a", true)
		if err != nil {
			t.Fatal(err)
		}
		print := func(text string) {
			if n, err := io.WriteString(w, text); err != nil || n != len(text) {
				t.Errorf("%d, %v", n, err)
			}
		}
		print("begun\n")
		d.Fill(0)
		lost := strings.Repeat("x", 64<<10)
		print(lost)
		print(lost)
		d.Empty()
		print("ended\n")
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		const want = "begun\n\n[131072 bytes are missing here: they could not be written]\nended\n"
		if got, err := io.ReadAll(r); err != nil || string(got) != want {
			t.Errorf("read is %q, %v", got, err)
		}
		if got, err := os.ReadFile(d.Dir + "/a.log"); err != nil || string(got) != want {
			t.Errorf("the file has %q, %v", got, err)
		}
	})
}
