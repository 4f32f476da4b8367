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
