package crash_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/store/bolt"
)

// onlyAPI is a daemon that has no hypervisor: a store and an API server.
const onlyAPI = "none"

func serveAPI(dir string) error {
	s, err := bolt.Open(filepath.Join(dir, "store.db"), bolt.Options{})
	if err != nil {
		return err
	}
	server, err := apiserver.New(context.Background(), apiserver.Options{Store: s, CRDs: v1.CRDs, Logger: logr.Discard()})
	if err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(dir, "s.sock"))
	listener, err := net.Listen("unix", filepath.Join(dir, "s.sock"))
	if err != nil {
		return err
	}
	fmt.Println("serving")
	return server.Serve(context.Background(), listener)
}

// writer writes to one object of the API, one write after the other.
type writer struct {
	name string
	// acked is the last write that was acknowledged, with the resource version that
	// it was told; 0 for a deletion's.
	acked   int
	version string
	// total counts what was acknowledged to all writers.
	total *atomic.Int64
}

// deletions says that every so many-th write deletes the object; the next one makes it anew.
const deletions = 9

func (w *writer) object(n int) *v1.Sandbox {
	box := sandbox(w.name, idle)
	box.Annotations = map[string]string{"n": strconv.Itoa(n)}
	return box
}

// write goes on until it fails.
func (w *writer) write(ctx context.Context, c client.Client) error {
	for n := w.acked + 1; ; n++ {
		box := w.object(n)
		var err error
		switch n % deletions {
		case 0:
			err = c.Delete(ctx, box)
		case 1:
			err = c.Create(ctx, box)
		default:
			err = c.Patch(ctx, box, client.MergeFrom(w.object(n-1)))
		}
		if err != nil {
			return err
		}
		w.acked, w.version = n, box.ResourceVersion
		w.total.Add(1)
	}
}

// verify holds the object against what was acknowledged. The write after that may
// have been made, and is then the last.
func (w *writer) verify(ctx context.Context, c client.Client) error {
	box := sandbox(w.name)
	err := c.Get(ctx, client.ObjectKeyFromObject(box), box)
	is := func(n int) bool {
		if n%deletions == 0 {
			return apierrors.IsNotFound(err)
		}
		return err == nil && box.Annotations["n"] == strconv.Itoa(n)
	}
	switch {
	case is(w.acked) && (err != nil || box.ResourceVersion == w.version):
		return nil
	case is(w.acked + 1):
		w.acked, w.version = w.acked+1, box.ResourceVersion
		return nil
	}
	return fmt.Errorf("object %s after write %d, of version %s: it has %q of version %s, %w",
		w.name, w.acked, w.version, box.Annotations["n"], box.ResourceVersion, err)
}

// TestAcknowledged kills store and API server with SIGKILL at random moments while
// clients write: whatever they were told to be written is there afterwards.
func TestAcknowledged(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	dir := folder(t)
	var writers []*writer
	var total atomic.Int64
	for i := range 6 {
		writers = append(writers, &writer{name: fmt.Sprint("w", i), total: &total})
	}
	for round := range rounds {
		p, err := spawn(onlyAPI, dir, "", newDeath(point{}))
		must(t, err)
		for _, w := range writers {
			if err := w.verify(t.Context(), p.client); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
		var writing sync.WaitGroup
		for _, w := range writers {
			writing.Go(func() { _ = w.write(t.Context(), p.client) })
		}
		// Some are done, however slow the disk is, and others are under way.
		for want, deadline := int64(10*(round+1)), time.Now().Add(patience); total.Load() < want; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				must(t, p.end())
				t.Fatalf("round %d: %d writes only", round, total.Load())
			}
		}
		time.Sleep(rand.N(200 * time.Millisecond))
		must(t, p.end())
		writing.Wait()
	}
	t.Logf("%d acknowledged writes survived %d kills", total.Load(), rounds)
}
