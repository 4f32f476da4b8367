package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"time"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/fetch"
	"sandboxd.dev/sandboxd/providers/internal/qemuimg"
)

// checkTime is how long a server may take to answer a check.
const checkTime = 10 * time.Second

// Check looks for what is wrong with a source as providers.Images.CheckSource
// does. Of a file of the host it reads the header itself and, if it is small
// enough, the digest; qemu-img has its say at the import. Of a file behind an
// address it asks whether it is there, and of an artifact for its manifest.
func Check(ctx context.Context, object string, o Origin, limit int64) error {
	j := Job{Object: object, Origin: o, MaxBytes: limit, Stall: checkTime}
	switch {
	case o.OCI != nil:
		a, err := j.artifact(ctx)
		if a.blob != nil {
			_ = a.blob.Close()
		}
		return err
	case o.Disk.URL == "":
		return j.checkFile(ctx)
	}
	if _, err := j.wanted(ctx); err != nil {
		return err
	}
	return fetch.Probe(ctx, fetch.Request{Object: object, URL: o.Disk.URL, MaxBytes: o.fileLimit(limit), Stall: checkTime})
}

func (j Job) checkFile(ctx context.Context) error {
	src, err := Open(j.Object, j.Origin.Disk.Path)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if err := j.admit(info.Size()); err != nil {
		return err
	}
	disk, size, want := io.ReaderAt(src), info.Size(), j.Origin.format()
	p, packed := packingOf(src)
	switch {
	case packed && p.open == nil:
		return refusePacking(j.Object, j.Origin.String(), p)
	case isArchive(src, want):
		inside, err := diskInOVA(j.Object, j.Origin, src, j.Origin.limit(j.MaxBytes))
		if err != nil {
			return err
		}
		disk, size, want = io.NewSectionReader(src, inside.Offset, inside.Size), inside.Size, ""
	}
	if !packed {
		if _, err := qemuimg.Inspect(disk, size, want); err != nil {
			return Error(j.Object, j.Origin.String(), err)
		}
	}
	should, err := j.wanted(ctx)
	if err != nil || should.digest == "" || info.Size() > providers.MaxCheckedDigest {
		return err
	}
	sum := sha256.New()
	if err := Copy(ctx, src, nil, sum, func(int64) {}); err != nil {
		return err
	}
	return should.check(j.Object, j.Origin.String(), hex.EncodeToString(sum.Sum(nil)))
}
