//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	createsPerWriter = 300
	valueSize        = 1 << 10
	manyWriters      = 16
)

// store measures acknowledged creations through the whole daemon, and against
// the fastest that bbolt itself can acknowledge as many writers on this disk:
// one transaction for each group of waiting writes.
func (b *bench) store(ctx context.Context) error {
	d, err := b.startDaemon(ctx, "store", "--simulate")
	if err != nil {
		return err
	}
	for _, writers := range []int{1, manyWriters} {
		api, err := b.creates(ctx, d, writers)
		if err != nil {
			return err
		}
		floor, err := b.boltCreates(writers)
		if err != nil {
			return err
		}
		figure(fmt.Sprintf("creates_%d_writers", writers), api, "creates/s")
		figure(fmt.Sprintf("creates_%d_writers_bbolt", writers), floor, "creates/s")
		figure(fmt.Sprintf("creates_%d_writers_ratio", writers), api/floor, "of_bbolt")
	}
	if err := createToWatch(ctx, d); err != nil {
		return err
	}
	return d.stop()
}

// creates creates Secrets, whose only work is the API server's and the store's.
func (b *bench) creates(ctx context.Context, d *daemon, writers int) (float64, error) {
	return rate(writers, func(writer, i int) error {
		return d.client.Create(ctx, secret(fmt.Sprintf("w%d-%d-%d", writers, writer, i)))
	})
}

func secret(name string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Data:       map[string][]byte{"value": make([]byte, valueSize*3/4)}, // 1 KiB in base64
	}
}

// rate runs work createsPerWriter times in each of the writers.
func rate(writers int, work func(writer, i int) error) (float64, error) {
	errs := make(chan error, writers)
	var wg sync.WaitGroup
	start := time.Now()
	for w := range writers {
		wg.Go(func() {
			for i := range createsPerWriter {
				if err := work(w, i); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	select {
	case err := <-errs:
		return 0, err
	default:
		return float64(writers*createsPerWriter) / took.Seconds(), nil
	}
}

// boltCreates lets as many writers wait for grouped transactions of bare bbolt.
func (b *bench) boltCreates(writers int) (float64, error) {
	path := filepath.Join(b.dir, fmt.Sprintf("floor-%d.db", writers))
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = db.Close(); _ = os.Remove(path) }()
	bucket := []byte("b")
	if err := db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket(bucket); return err }); err != nil {
		return 0, err
	}
	db.MaxBatchSize = writers // a group is closed as soon as all writers are in
	value := make([]byte, valueSize)
	return rate(writers, func(writer, i int) error {
		return db.Batch(func(tx *bbolt.Tx) error {
			return tx.Bucket(bucket).Put(fmt.Appendf(nil, "%d-%d", writer, i), value)
		})
	})
}

// createToWatch measures from the request until a watcher has the event.
func createToWatch(ctx context.Context, d *daemon) error {
	const count = 200
	w, err := d.client.Watch(ctx, &corev1.SecretList{}, client.InNamespace("default"),
		&client.ListOptions{Raw: &metav1.ListOptions{LabelSelector: "bench=latency"}})
	if err != nil {
		return err
	}
	defer w.Stop()
	latencies := make([]time.Duration, 0, count)
	for i := range count {
		s := secret(fmt.Sprintf("latency-%d", i))
		s.Labels = map[string]string{"bench": "latency"}
		start := time.Now()
		if err := d.client.Create(ctx, s); err != nil {
			return err
		}
		select {
		case <-w.ResultChan():
			latencies = append(latencies, time.Since(start))
		case <-time.After(10 * time.Second):
			return fmt.Errorf("the watch delivers nothing")
		}
	}
	figure("create_to_watch_p50", quantile(latencies, 0.5), "ms")
	figure("create_to_watch_p99", quantile(latencies, 0.99), "ms")
	return nil
}
