package bolt

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"sandboxd.dev/sandboxd/store"
	"sandboxd.dev/sandboxd/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Backend {
		path := filepath.Join(t.TempDir(), "data", "store.db")
		return storetest.Backend{
			Open:      func() (store.Store, error) { return Open(path, Options{WatchEvents: 80}) },
			LogEvents: 80,
		}
	})
}

func TestCrash(t *testing.T) {
	storetest.Crash(t, func(dir string) (store.Store, error) {
		return Open(filepath.Join(dir, "store.db"), Options{})
	})
}
