package domain

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// TestSetDisk: a definition that was changed is the one that is built that way.
func TestSetDisk(t *testing.T) {
	long := []string{"/data/layers/0002.qcow2", "/data/layers/0001.qcow2", "/data/base.qcow2"}
	s := spec(v1.NetworkNAT)
	short := s.Below
	for _, tc := range []struct{ from, to []string }{{short, long}, {long, short}, {long, nil}, {nil, long}, {long, long}} {
		s.Below = tc.from
		got, err := SetDisk(build(t, s), append([]string{s.Disk}, tc.to...))
		if err != nil {
			t.Fatal(err)
		}
		s.Below = tc.to
		if diff := cmp.Diff(build(t, s), got); diff != "" {
			t.Errorf("from %v to %v (-want +got):\n%s", tc.from, tc.to, diff)
		}
		if live, err := Parse(got); err != nil || !slices.Equal(live.Below, tc.to) {
			t.Errorf("it is read as %v, %v", live.Below, err)
		}
	}
	swapped := s
	s.Below, swapped.Disk = short, "/others/disk.raw"
	text := strings.Replace(build(t, swapped), `type="qcow2" cache`, `type="raw" cache`, 1)
	if got, err := SetDisk(text, append([]string{s.Disk}, short...)); err != nil || got != build(t, s) {
		t.Errorf("a disk that was swapped is not put back: %v (-want +got):\n%s", err, cmp.Diff(build(t, s), got))
	}
	for _, bad := range []string{"", "<domain>", "<domain type='qemu'><devices/></domain>"} {
		if _, err := SetDisk(bad, long); err == nil {
			t.Errorf("%q was changed", bad)
		}
	}
}

// TestSetTerminal: what an earlier release defined can be typed at when it is started
// again, what others defined stays, and it is defined once.
func TestSetTerminal(t *testing.T) {
	const log = "/data/console.log"
	now := build(t, spec(v1.NetworkNone))
	before := now
	for i := 0; i < len(fileConsole); i += 2 {
		before = strings.Replace(before, fileConsole[i], fileConsole[i+1], 1)
	}
	live, err := Parse(before)
	if err != nil || live.Terminal {
		t.Fatalf("the file of an earlier release is taken for a terminal: %v", err)
	}
	if got, err := SetTerminal(before, log); err != nil || got != now {
		t.Errorf("(-want +got):\n%s %v", cmp.Diff(now, got), err)
	}
	for _, text := range []string{now, strings.ReplaceAll(before, log, "/elsewhere"), `<domain></domain>`} {
		if got, err := SetTerminal(text, log); err != nil || got != text {
			t.Errorf("changed (-want +got):\n%s %v", cmp.Diff(text, got), err)
		}
	}
	if _, err := SetTerminal("<domain", log); err == nil {
		t.Error("what is no XML is no error")
	}
}
