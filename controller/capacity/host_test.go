package capacity

import (
	"os"
	"path/filepath"
	"testing"
)

func TestHost(t *testing.T) {
	dir := t.TempDir()
	machines, empty := filepath.Join(dir, "kvm", "machines"), filepath.Join(dir, "vbox", "machines")
	nothing, err := Host(machines, empty) // before anything was made
	if err != nil {
		t.Fatal(err)
	}
	if nothing.Memory < 64*mi || nothing.CPUs < 1 || nothing.DiskSize <= 0 || nothing.DiskFree > nothing.DiskSize || len(nothing.Machines) != 0 {
		t.Errorf("%+v", nothing)
	}
	for id, size := range map[string]int{"one": 1 << 20, "two": 64 << 10} {
		sub := filepath.Join(machines, id, "layers")
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, "0001.qcow2"), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A file of which nothing was written takes nothing.
	sparse, err := os.Create(filepath.Join(machines, "two", "disk.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	if err := sparse.Truncate(1 << 40); err != nil {
		t.Fatal(err)
	}
	if err := sparse.Sync(); err != nil {
		t.Fatal(err)
	}
	_ = sparse.Close()
	got, err := Host(machines, empty)
	if err != nil {
		t.Fatal(err)
	}
	if one, two := got.Machines["one"], got.Machines["two"]; len(got.Machines) != 2 || one < 1<<20 || one > 2<<20 || two < 64<<10 || two > 1<<20 {
		t.Errorf("machines take %v", got.Machines)
	}
	if without, err := Host(); err != nil || without.DiskSize != 0 || without.Memory != got.Memory {
		t.Errorf("without folders: %+v, %v", without, err)
	}
}
