package bolt

import (
	"fmt"

	"go.etcd.io/bbolt"
)

// Trim takes the file's pages out of this process's memory. Opening a store reads
// all of them, and commits read some, but all reading is done from the index: what
// a commit needs it gets back from the kernel's cache. Trim may be called at any
// time and changes nothing in the store.
func (s *Store) Trim() error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.running.Done()
	// The file stays mapped where it is, up to its last page, while a transaction
	// reads.
	err := s.db.View(func(tx *bbolt.Tx) error { return unmapPages(s.db.Info().Data, uintptr(tx.Size())) })
	if err != nil {
		return fmt.Errorf("store %s: its pages cannot be taken out of memory: %w", s.path, err)
	}
	return nil
}
