package bolt

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/store"
)

// damage is what happens to a file: bytes inverted in part, the end cut off.
type damage struct {
	offset, length int
	mask           byte
	cut            int // bytes cut off the end
}

func (d damage) apply(file []byte) []byte {
	file = slices.Clone(file)[:max(0, len(file)-d.cut)]
	for i := range min(d.length, max(0, len(file)-d.offset)) {
		file[d.offset+i] ^= d.mask
	}
	return file
}

// checkDamage opens a damaged copy of a store. It is refused or served; what is
// served was once true: no damaged entry is.
func checkDamage(t *testing.T, path string, good []byte, values map[store.Key]string, d damage) (refused bool) {
	t.Helper()
	if err := os.WriteFile(path, d.apply(good), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(path, Options{LockTimeout: time.Millisecond})
	if err != nil {
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrForeign) && !errors.Is(err, ErrNewer) {
			t.Errorf("%+v: %v", d, err)
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: not one sentence: %v", d, err)
		}
		return true
	}
	defer func() { _ = s.Close() }()
	snapshot, err := s.List(t.Context(), testKey("").Resource, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range snapshot.Entries {
		if want, found := values[e.Key]; !found || want != string(e.Value) {
			t.Errorf("%+v: served %s with another value", d, e.Key)
		}
	}
	return false
}

// imageOf returns a store's file, without the unused end that a file in use has,
// and the values that are in it.
func imageOf(t testing.TB, path string) (file []byte, values map[store.Key]string) {
	s := mustOpen(t, path, Options{})
	defer mustClose(t, s)
	snapshot, err := s.List(t.Context(), testKey("").Resource, "")
	if err != nil {
		t.Fatal(err)
	}
	values = make(map[store.Key]string)
	for _, e := range snapshot.Entries {
		values[e.Key] = string(e.Value)
	}
	var copied bytes.Buffer
	if err := s.Backup(t.Context(), &copied); err != nil {
		t.Fatal(err)
	}
	return copied.Bytes(), values
}

// TestDamage damages a store in many ways: each page in turn, bits, the end.
func TestDamage(t *testing.T) {
	good, values := imageOf(t, filled(t))
	path := filepath.Join(t.TempDir(), "store.db")
	if checkDamage(t, path, good, values, damage{}) {
		t.Fatal("a store without damage is refused")
	}
	page := os.Getpagesize()
	var damages []damage
	for at := 0; at < len(good); at += page {
		damages = append(damages,
			damage{offset: at, length: page, mask: 0xff},
			damage{offset: at, length: 16, mask: 0x01}, // its header
			damage{offset: at + 16, length: 32, mask: 0x10},
			damage{cut: len(good) - at})
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 400 {
		damages = append(damages, damage{
			offset: random.IntN(len(good)), length: 1 + random.IntN(3), mask: 1 << random.IntN(8),
		})
	}
	refused := 0
	for _, d := range damages {
		if checkDamage(t, path, good, values, d) {
			refused++
		}
	}
	t.Logf("%d of %d damaged files were refused, in the others no entry was hit", refused, len(damages))
	if refused < len(damages)/3 {
		t.Errorf("only %d of %d damaged files were refused", refused, len(damages))
	}
}

func FuzzDamage(f *testing.F) {
	good, values := imageOf(f, filled(f))
	f.Add(0, 64, byte(0xff), 0)
	f.Add(4096, 64, byte(0xff), 0)
	f.Add(3*4096+8, 2, byte(1), 0)
	f.Add(0, 0, byte(0), 5000)
	f.Fuzz(func(t *testing.T, offset, length int, mask byte, cut int) {
		d := damage{
			offset: int(uint(offset) % uint(len(good))),
			length: int(uint(length) % 256),
			mask:   mask,
			cut:    int(uint(cut) % uint(len(good)+1)),
		}
		checkDamage(t, filepath.Join(t.TempDir(), "store.db"), good, values, d)
	})
}
