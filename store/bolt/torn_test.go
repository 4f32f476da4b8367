package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/store"
)

// spoil does to a file what disks, power failures and people do to it, and says what.
func spoil(random *rand.Rand, file, older []byte) (what string, spoiled []byte) {
	const sector = 512
	page := os.Getpagesize()
	spoiled = bytes.Clone(file)
	at := func(unit int) int { return random.IntN(len(file)/unit) * unit }
	switch random.IntN(8) {
	case 0:
		n := random.IntN(len(file))
		return fmt.Sprintf("cut off after %d bytes", n), spoiled[:n]
	case 1:
		n := at(page)
		return fmt.Sprintf("cut off after %d bytes, in whole pages", n), spoiled[:n]
	case 2: // a sector that was never written
		n := at(sector)
		clear(spoiled[n : n+sector])
		return fmt.Sprintf("zeros at %d", n), spoiled
	case 3: // a page that was written elsewhere
		from, to := at(page), at(page)
		copy(spoiled[to:to+page], file[from:from+page])
		return fmt.Sprintf("page at %d in the place of %d", from, to), spoiled
	case 4: // a write that was lost
		n := random.IntN(min(len(file), len(older))/page) * page
		copy(spoiled[n:n+page], older[n:n+page])
		return fmt.Sprintf("an older page at %d", n), spoiled
	case 5: // a page that was written in part
		n := random.IntN(min(len(file), len(older))/page) * page
		copy(spoiled[n+page/2:n+page], older[n+page/2:n+page])
		return fmt.Sprintf("half an older page at %d", n), spoiled
	case 6:
		for range 1 + random.IntN(8) {
			spoiled[random.IntN(len(file))] ^= 1 << random.IntN(8)
		}
		return "bits inverted", spoiled
	default:
		n, size := random.IntN(len(file)), 1+random.IntN(2*page)
		for i := n; i < min(n+size, len(file)); i++ {
			spoiled[i] = byte(random.Uint32())
		}
		return fmt.Sprintf("%d random bytes at %d", size, n), spoiled
	}
}

// TestSpoiled spoils a store in many ways. Each time it is refused in one sentence
// that says what to do, and not changed; or it serves what was once written, takes
// writes, and opens again with them. It never ends the process.
func TestSpoiled(t *testing.T) {
	path := filled(t)
	older, values := imageOf(t, path)
	s := mustOpen(t, path, Options{})
	for i := range 40 {
		mustPut(t, s, fmt.Sprint("later-", i), strings.Repeat("later", i), 0)
	}
	mustClose(t, s)
	file, now := imageOf(t, path)
	once := map[store.Key][]string{}
	for _, m := range []map[store.Key]string{values, now} {
		for k, v := range m {
			once[k] = append(once[k], v)
		}
	}
	rounds := 600
	if testing.Short() {
		rounds = 300
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	refused := 0
	for range rounds {
		what, spoiled := spoil(random, file, older)
		path := filepath.Join(t.TempDir(), "store.db")
		if err := os.WriteFile(path, spoiled, 0o600); err != nil {
			t.Fatal(err)
		}
		no, err := checkSpoiled(t, path, once)
		if no {
			refused++
		}
		if after, _ := os.ReadFile(path); err == nil && no && !bytes.Equal(after, spoiled) {
			err = errors.New("it was refused, and changed")
		}
		if err != nil {
			t.Errorf("seed %d: %s: %v", seed, what, err)
		}
		_ = os.RemoveAll(filepath.Dir(path))
	}
	t.Logf("%d of %d spoiled files were refused", refused, rounds)
	if refused < rounds/4 || refused == rounds {
		t.Errorf("seed %d: %d of %d spoiled files were refused", seed, refused, rounds)
	}
}

// checkSpoiled opens a store that may be spoiled.
func checkSpoiled(t *testing.T, path string, once map[store.Key][]string) (refused bool, err error) {
	t.Helper()
	s, err := Open(path, Options{LockTimeout: time.Millisecond})
	if err != nil {
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrForeign) && !errors.Is(err, ErrNewer) {
			return true, fmt.Errorf("refused for no known reason: %w", err)
		}
		if m := err.Error(); strings.Contains(m, "\n") || !strings.HasPrefix(m, "store "+path) || strings.Count(m, ": ") < 2 {
			return true, fmt.Errorf("not one sentence with what to do: %w", err)
		}
		return true, nil
	}
	wrote := testKey("after-the-damage")
	_, err = s.Put(t.Context(), wrote, []byte("new"), 0)
	if err != nil {
		return false, errors.Join(fmt.Errorf("it serves, and takes no write: %w", err), s.Close())
	}
	if err := errors.Join(servesOnly(t, s, once, wrote), s.Close()); err != nil {
		return false, err
	}
	if s, err = Open(path, Options{}); err != nil {
		return false, fmt.Errorf("it does not open again after a write: %w", err)
	}
	defer func() { _ = s.Close() }()
	if _, err := s.Get(t.Context(), wrote); err != nil {
		return false, err
	}
	return false, servesOnly(t, s, once, wrote)
}

// servesOnly tells whether every entry but one was once written as it is.
func servesOnly(t *testing.T, s *Store, once map[store.Key][]string, but store.Key) error {
	t.Helper()
	snapshot, err := s.List(t.Context(), but.Resource, "")
	if err != nil {
		return err
	}
	for _, e := range snapshot.Entries {
		if e.Key != but && !slices.Contains(once[e.Key], string(e.Value)) {
			return fmt.Errorf("it serves %s with a value that was never written", e.Key)
		}
	}
	return nil
}
