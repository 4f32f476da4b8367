package build

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"sandboxd.dev/sandboxd/providers"
)

func TestLogsAreAnInventory(t *testing.T) {
	ctx, dir := t.Context(), filepath.Join(t.TempDir(), "builds")
	logs := NewLogs(dir)
	if all, err := logs.ListResources(ctx); err != nil || len(all) != 0 {
		t.Errorf("before any build there is %+v, %v", all, err)
	}
	w, err := logs.Create("0f1e-2d3c")
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{"notes.txt", "Other.log", ".log"} {
		if err := os.WriteFile(filepath.Join(dir, other), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := logs.ListResources(ctx)
	if err != nil || len(all) != 1 || all[0].ID != "0f1e-2d3c" || len(all[0].Owners) != 1 || all[0].Owners[0] != "0f1e-2d3c" {
		t.Fatalf("there is %+v, %v", all, err)
	}
	wants := func(r providers.Resource, want error) {
		t.Helper()
		if err := logs.RemoveResource(ctx, r); !errors.Is(err, want) {
			t.Errorf("%+v: %v, want %v", r, err, want)
		}
	}
	wants(all[0], providers.ErrBusy)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	foreign, climbing := all[0], all[0]
	foreign.Ownership, climbing.ID = providers.Ambiguous, "../store"
	wants(foreign, providers.ErrInvalid)
	wants(climbing, providers.ErrInvalid)
	wants(all[0], nil)
	wants(all[0], providers.ErrNotFound)
}
