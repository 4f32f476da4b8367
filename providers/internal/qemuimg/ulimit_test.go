package qemuimg

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnderLimits: the shell hands arguments on as they are, and the program has
// the limits of its job.
func TestUnderLimits(t *testing.T) {
	const ask = `echo "$(ulimit -t) $(ulimit -f)"; printf '<%s>' "$@"`
	none := output(t, job{args: []string{"-c", ask, "sh"}})
	for name, c := range map[string]struct {
		cpu, size uint64
		want      string
	}{
		"none": {0, 0, strings.TrimSuffix(none, "\n<>")},
		"cpu":  {30, 0, "30 " + strings.Fields(none)[1]},
		"both": {30, 1 << 20, "30 2048"},
		"tiny": {7, 1, "7 1"},
	} {
		got := output(t, job{args: []string{"-c", ask, "sh", "a b", "$HOME", "-f", `"'`}, cpu: c.cpu, size: c.size})
		if want := c.want + "\n" + `<a b><$HOME><-f><"'>`; got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestUnderLimitsNothingGrowsLarger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	j := job{args: []string{"if=/dev/zero", "of=" + path, "bs=4096", "count=100"}, size: 8192}
	dd, err := exec.LookPath("dd")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("/bin/sh", underLimits(dd, j)...).CombinedOutput(); err == nil {
		t.Errorf("dd succeeded: %s", out)
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() > 8192 {
		t.Errorf("the file has %v, %v", info, err)
	}
}

// output of a shell that runs under a job's limits.
func output(t *testing.T, j job) string {
	t.Helper()
	out, err := exec.Command("/bin/sh", underLimits("/bin/sh", j)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}
