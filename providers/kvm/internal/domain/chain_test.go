package domain

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// TestSetBelow: a definition that was changed is the one that is built that way.
func TestSetBelow(t *testing.T) {
	long := []string{"/data/layers/0002.qcow2", "/data/layers/0001.qcow2", "/data/base.qcow2"}
	s := spec(v1.NetworkNAT)
	short := s.Below
	for _, tc := range []struct{ from, to []string }{{short, long}, {long, short}, {long, nil}, {nil, long}, {long, long}} {
		s.Below = tc.from
		got, err := SetBelow(build(t, s), tc.to)
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
	for _, bad := range []string{"", "<domain>", "<domain type='qemu'><devices/></domain>"} {
		if _, err := SetBelow(bad, long); err == nil {
			t.Errorf("%q was changed", bad)
		}
	}
}
