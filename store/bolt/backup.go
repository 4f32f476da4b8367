package bolt

import (
	"context"
	"fmt"
	"io"
)

// Backup writes a copy of the store to w while the store is in use. The copy
// holds every write acknowledged before the call; to restore it, put it in the
// place of the store's file while no daemon runs.
//
// Space that writes give up meanwhile is not used again until the copy is
// done: w should not be slow. The backup ends with the context's error or
// ErrClosed soon after the context ends or the store is closed, but not
// within a call of w.Write.
func (s *Store) Backup(ctx context.Context, w io.Writer) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.running.Done()
	tx, err := s.db.Begin(false)
	if err != nil {
		return fmt.Errorf("store %s: cannot be backed up: %w", s.path, err)
	}
	defer func() { _ = tx.Rollback() }()
	// A writer of our own takes the copy in pieces and looks up between them.
	p := &pieces{ctx: ctx, store: s, w: w}
	if _, err := tx.WriteTo(p); err != nil {
		if ended := p.ended(); ended != nil {
			return ended
		}
		if p.err != nil { // bbolt repeats but the words of some
			err = p.err
		}
		return fmt.Errorf("store %s: the backup is incomplete: %w", s.path, err)
	}
	return nil
}

// pieces passes writes on until the context ends or the store is closed.
type pieces struct {
	ctx   context.Context
	store *Store
	w     io.Writer
	// err is what w failed with.
	err error
}

func (p *pieces) Write(b []byte) (n int, err error) {
	if err := p.ended(); err != nil {
		return 0, err
	}
	n, p.err = p.w.Write(b)
	return n, p.err
}

func (p *pieces) ended() error {
	select {
	case <-p.store.closing:
		return p.store.errClosed()
	default:
		return p.ctx.Err()
	}
}
