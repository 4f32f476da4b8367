package accel

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestProbe(t *testing.T) {
	intel := write(t, "processor : 0\nflags\t\t: fpu vme vmx sse\n")
	amd := write(t, "flags : fpu svm\n")
	neither := write(t, "model name : vmx\nflags : fpu vmxx svmy\n")
	device := write(t, "")
	works := func(*os.File) error { return nil }
	fails := func(*os.File) error { return errors.New("Suberror 1") }
	for name, tc := range map[string]struct {
		device, cpuinfo string
		run             func(*os.File) error
		works           bool
		reason          string
	}{
		"intel":             {device, intel, works, true, ""},
		"amd":               {device, amd, works, true, ""},
		"no flag":           {device, neither, works, false, "no vmx or svm"},
		"no device":         {device + "x", intel, works, false, "does not exist"},
		"runs no guest":     {device, intel, fails, false, "Suberror 1"},
		"no cpuinfo at all": {device, device + "x", works, true, ""},
	} {
		got := probe(tc.device, tc.cpuinfo, tc.run)
		if got.Works != tc.works || !strings.Contains(got.Reason, tc.reason) || got.Works == (got.Reason != "") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestRunGuest: what the kernel calls KVM here must either run the program or
// be said not to.
func TestRunGuest(t *testing.T) {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		t.Skipf("there is no KVM: %v", err)
	}
	defer func() { _ = f.Close() }()
	t.Logf("the program: %v", runGuest(f))
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	if err := runGuest(null); err == nil {
		t.Error("/dev/null runs guests")
	}
}
