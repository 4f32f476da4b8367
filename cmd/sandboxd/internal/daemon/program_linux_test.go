package daemon

import (
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

func TestUnwrittenParts(t *testing.T) {
	const smaps = `00400000-00500000 r-xp 00000000 fe:00 1001                       /usr/bin/sandboxd
Rss:                1024 kB
Anonymous:             0 kB
Swap:                  0 kB
SwapPss:               0 kB
VmFlags: rd ex mr mw me
00500000-00600000 r--p 00100000 fe:00 1001                       /usr/bin/sandboxd
Anonymous:             0 kB
Swap:                  0 kB
00600000-00601000 r--p 00200000 fe:00 1001                       /usr/bin/sandboxd
Anonymous:             4 kB
Swap:                  0 kB
00702000-00703000 r--p 00300000 fe:00 1001                       /usr/bin/sandboxd
Anonymous:             0 kB
Swap:                  4 kB
00703000-00704000 rw-p 00201000 fe:00 1001                       /usr/bin/sandboxd
Anonymous:             0 kB
Swap:                  0 kB
00704000-00800000 rw-p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
7f0000000000-7f0000100000 r-xp 00000000 fe:00 1002               /usr/lib/libc.so.6
Anonymous:             0 kB
Swap:                  0 kB
`
	got, err := unwrittenParts(strings.NewReader(smaps), "/usr/bin/sandboxd")
	if want := []part{{0x400000, 0x500000}, {0x500000, 0x600000}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %x, %v, want %x", got, err, want)
	}
	for _, bad := range []string{"00400000 r-xp\n", "00400000-00500000 r-xp 0 fe:00 1 /p\nAnonymous: much\n", "00400000-00500000 r-xp 0 fe:00 1 /p\nAnonymous: 0 kB\nSwap: much\n"} {
		if got, err := unwrittenParts(strings.NewReader(bad), "/p"); err == nil {
			t.Errorf("%q: %x", bad, got)
		}
	}
}

// programResident is how much of this program's file is in memory, in kB.
func programResident(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssFile:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kb
}

// TestReleaseProgram checks that pages leave the memory, and that the program
// runs on.
func TestReleaseProgram(t *testing.T) {
	before := programResident(t)
	if err := releaseProgram(); err != nil {
		t.Fatal(err)
	}
	after := programResident(t)
	if after > before/2 {
		t.Errorf("%d of %d kB are still in memory", after, before)
	}
	for range 3 {
		if err := releaseProgram(); err != nil {
			t.Fatal(err)
		}
		if got := testing.AllocsPerRun(10, func() { _ = make([]byte, 1<<20) }); got > 1 {
			t.Errorf("%v allocations", got)
		}
	}
}
