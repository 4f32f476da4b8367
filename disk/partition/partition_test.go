package partition

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func table(slots ...slot) []byte {
	b := make([]byte, 64*sector)
	for i, s := range slots {
		e := b[446+i*16:]
		e[4] = s.kind
		binary.LittleEndian.PutUint32(e[8:], uint32(s.start))
		binary.LittleEndian.PutUint32(e[12:], uint32(s.size))
	}
	b[510], b[511] = 0x55, 0xaa
	return b
}

func TestMBR(t *testing.T) {
	b := table(slot{0x83, 2, 10}, slot{0x05, 20, 40}, slot{}, slot{0x83, 60, 1000})
	logical := table(slot{0x83, 1, 3}, slot{0x05, 10, 5})
	copy(b[20*sector:], logical[:sector])
	// The chain ends where it leads back.
	again := table(slot{0x83, 1, 2}, slot{0x05, 0, 5})
	copy(b[30*sector:], again[:sector])
	list, err := Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	want := []Partition{
		{Number: 1, Start: 2 * sector, Size: 10 * sector},
		{Number: 5, Start: 21 * sector, Size: 3 * sector},
		{Number: 6, Start: 31 * sector, Size: 2 * sector},
		{Number: 4, Start: 60 * sector, Size: 4 * sector},
	}
	if len(list) != len(want) {
		t.Fatalf("%+v", list)
	}
	for i := range want {
		if list[i] != want[i] {
			t.Errorf("%+v, want %+v", list[i], want[i])
		}
	}
}

func TestGPT(t *testing.T) {
	sfdisk, err := exec.LookPath("/usr/sbin/sfdisk")
	if err != nil {
		t.Skip("sfdisk is not installed")
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(sfdisk, "-q", image)
	cmd.Stdin = strings.NewReader("label: gpt\nstart=2048, size=4096\n3 : start=8192, size=100, uuid=01234567-89AB-CDEF-0123-456789ABCDEF\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	raw, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		list, err := Read(bytes.NewReader(raw), int64(len(raw)))
		if err != nil || len(list) != 2 || list[0].Number != 1 || list[0].Start != 1<<20 || list[0].Size != 2<<20 ||
			list[1].Number != 3 || list[1].Size != 51200 || list[1].UUID != "01234567-89ab-cdef-0123-456789abcdef" {
			t.Errorf("%+v, %v", list, err)
		}
	}
	check()
	clear(raw[sector : 2*sector]) // the one at the end is left
	check()
}

func FuzzRead(f *testing.F) {
	f.Add(table(slot{0x83, 2, 10}, slot{0x05, 20, 40}))
	f.Add(table(slot{0xee, 1, 63}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		list, err := Read(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		if len(list) > 2*maxPartitions+4 {
			t.Fatalf("%d partitions", len(list))
		}
		for _, p := range list {
			if p.Start <= 0 || p.Size < 0 || p.Start+p.Size > int64(len(raw)) {
				t.Fatalf("%+v of %d bytes", p, len(raw))
			}
		}
	})
}
