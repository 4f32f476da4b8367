package bolt

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"go.etcd.io/bbolt"

	"sandboxd.dev/sandboxd/store"
)

// benchValue is the size of a Sandbox with its status, more or less.
var benchValue = make([]byte, 1024)

func benchKey(n int64) store.Key {
	return store.Key{Resource: "sandboxes.sandboxd.dev", Namespace: "default", Name: fmt.Sprintf("sandbox-%08d", n)}
}

func openBench(b *testing.B) *Store {
	s, err := Open(filepath.Join(b.TempDir(), "store.db"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	return s
}

// BenchmarkPut1Writer: acknowledged creates by one writer.
func BenchmarkPut1Writer(b *testing.B) { benchPut(b, 1) }

// BenchmarkPut16Writers: acknowledged creates by sixteen writers.
func BenchmarkPut16Writers(b *testing.B) { benchPut(b, 16) }

func benchPut(b *testing.B, writers int) {
	s := openBench(b)
	var next atomic.Int64
	b.ResetTimer()
	inParallel(writers, func() {
		for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
			if _, err := s.Put(context.Background(), benchKey(n), benchValue, 0); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	report(b, "creates/s")
}

// BenchmarkGet: reads of one entry, for comparison with writes.
func BenchmarkGet(b *testing.B) {
	s := openBench(b)
	if _, err := s.Put(context.Background(), benchKey(1), benchValue, 0); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Get(context.Background(), benchKey(1)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFloor1 is what bare bbolt takes for one write a transaction.
func BenchmarkFloor1(b *testing.B) { benchFloor(b, 1) }

// BenchmarkFloor16 is bare bbolt with sixteen writes in every transaction: what
// no store with sixteen synchronous writers on bbolt can beat.
func BenchmarkFloor16(b *testing.B) { benchFloor(b, 16) }

func benchFloor(b *testing.B, group int) {
	db, err := bbolt.Open(filepath.Join(b.TempDir(), "bare.db"), 0o600, &bbolt.Options{
		FreelistType: bbolt.FreelistMapType, NoStatistics: true, InitialMmapSize: mapSize,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	db.AllocSize = growBy
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(bucketObjects)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for n := 0; n < b.N; n += group {
		err := db.Update(func(tx *bbolt.Tx) error {
			for i := n; i < min(n+group, b.N); i++ {
				if err := tx.Bucket(bucketObjects).Put(encodeKey(benchKey(int64(i))), benchValue); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	report(b, "creates/s")
}

// BenchmarkCreateToWatch: from the call of Put to the event in a watcher's hand.
func BenchmarkCreateToWatch(b *testing.B) {
	s := openBench(b)
	w, err := s.Watch(context.Background(), benchKey(0).Resource, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	for n := int64(1); b.Loop(); n++ {
		if _, err := s.Put(context.Background(), benchKey(n), benchValue, 0); err != nil {
			b.Fatal(err)
		}
		<-w.Events()
	}
}

func inParallel(n int, f func()) {
	var running sync.WaitGroup
	for range n {
		running.Go(f)
	}
	running.Wait()
}

func report(b *testing.B, unit string) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), unit)
}
