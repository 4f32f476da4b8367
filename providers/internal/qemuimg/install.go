package qemuimg

import (
	"context"
	"os"
	"strconv"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// Create makes a new, empty qcow2 file of its own, size bytes long.
func (t Tool) Create(ctx context.Context, path string, size int64) error {
	ctx, cancel := context.WithTimeout(ctx, shortTimeout)
	defer cancel()
	_, err := t.run(ctx, job{
		args:   []string{"create", "-q", "-f", "qcow2", path, strconv.FormatInt(size, 10)},
		memory: infoMemory, write: []string{path},
	})
	return err
}

// Boots tells whether firmware would take a disk for one to boot from: whether its
// first sector has the signature that those of a partition table, of either kind,
// have as well. The sector is copied to a new file, which is removed again.
func (t Tool) Boots(ctx context.Context, path string, format v1.DiskFormat, sector string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, shortTimeout)
	defer cancel()
	defer func() { _ = os.Remove(sector) }()
	if err := os.RemoveAll(sector); err != nil {
		return false, err
	}
	_, err := t.run(ctx, job{
		args:   []string{"dd", "-f", qemuName(format), "-O", "raw", "bs=512", "count=1", "if=" + path, "of=" + sector},
		memory: infoMemory, cpu: infoCPU, read: []string{path}, write: []string{sector},
	})
	if err != nil {
		return false, err
	}
	f, err := os.Open(sector)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	return hasBootRecord(f), nil
}
