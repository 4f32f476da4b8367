package seed

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seed.iso")
	spec := providers.MachineSpec{ID: "6253d238-8ffa-4c3a-ad45-3cb04de2eed4", Name: "web", Network: v1.Network{Mode: v1.NetworkNAT}}
	write := func() (content []byte, changed bool) {
		t.Helper()
		if err := Write(path, spec, func() { changed = true }); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b, changed
	}
	first, changed := write()
	for _, want := range []string{string(spec.ID), "web", providers.MACAddress(spec.ID, 0)} {
		if !changed || !bytes.Contains(first, []byte(want)) {
			t.Errorf("%q is not in the seed (changed: %t)", want, changed)
		}
	}
	if again, changed := write(); changed || !bytes.Equal(again, first) {
		t.Error("it was written again")
	}
	spec.Seed.Hostname, spec.Network.Mode = "other", v1.NetworkNone
	if now, changed := write(); !changed || !bytes.Contains(now, []byte("other")) || bytes.Contains(now, []byte(providers.MACAddress(spec.ID, 0))) {
		t.Errorf("another hostname, and no network (changed: %t)", changed)
	}
	spec.Seed.Hostname = "a\nb"
	if err := Write(path, spec, func() { t.Error("it began") }); !errors.Is(err, providers.ErrInvalid) {
		t.Errorf("a hostname of two lines: %v", err)
	}
}

func TestSame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if same(path, nil) {
		t.Error("a file that is not there")
	}
	for content, want := range map[string]bool{"": false, "see": false, "seed": true, "seeds": false} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if same(path, []byte("seed")) != want {
			t.Errorf("%q: want %v", content, want)
		}
	}
	if err := os.WriteFile(path, []byte("seed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 8<<40); err != nil { // does not fit into memory
		t.Skip(err)
	}
	if same(path, []byte("seed")) {
		t.Error("an endless file")
	}
}
