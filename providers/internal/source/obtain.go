package source

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/checksums"
	"sandboxd.dev/sandboxd/providers/internal/fetch"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

// downloads is the folder, in that of an import, of its download.
const downloads = "download"

// Obtained is a disk that was verified and unpacked, and that nobody else can
// change.
type Obtained struct {
	*os.File
	// Digest of the source as it came, as sha256:HEX.
	Digest string
	// Packed is the format of what the disk was packed in: ova, or empty.
	Packed v1.DiskFormat
	// Want is the format that it must have; empty means any.
	Want v1.DiskFormat
}

// Obtain brings the source into a folder, as the file staged or beside it,
// verifies its digest and takes the disk out of what it is packed in.
func (j Job) Obtain(ctx context.Context, staged string) (Obtained, error) {
	got, err := j.bring(ctx, staged)
	if err != nil {
		return Obtained{}, err
	}
	if err := j.unpack(ctx, &got, filepath.Join(filepath.Dir(staged), "disk")); err != nil {
		_ = got.Close()
		return Obtained{}, err
	}
	return got, nil
}

// bring copies or downloads the source and verifies it.
func (j Job) bring(ctx context.Context, staged string) (Obtained, error) {
	got := Obtained{Want: j.Origin.format()}
	switch o := j.Origin; {
	case o.OCI != nil:
		return j.bringArtifact(ctx, staged)
	case o.Disk.URL != "":
		want, err := j.wanted(ctx)
		if err != nil {
			return got, err
		}
		f, digest, err := j.download(ctx, fetch.Request{URL: o.Disk.URL}, staged, want.digest)
		if err != nil {
			return got, err
		}
		got.File, got.Digest = f, "sha256:"+digest
		return got, j.closeUnless(f, want.check(j.Object, o.String(), digest))
	}
	f, digest, err := j.stage(ctx, j.Origin.Disk.Path, staged)
	if err != nil {
		return got, err
	}
	got.File, got.Digest = f, "sha256:"+digest
	want, err := j.wanted(ctx)
	if err == nil {
		err = want.check(j.Object, j.Origin.String(), digest)
	}
	return got, j.closeUnless(f, err)
}

func (j Job) closeUnless(f *os.File, err error) error {
	if err != nil {
		_ = f.Close()
	}
	return err
}

// stage copies a file of the host, unless it is larger than it may be.
func (j Job) stage(ctx context.Context, path, staged string) (*os.File, string, error) {
	if info, err := os.Lstat(path); err == nil {
		if err := j.admit(info.Size()); err != nil {
			return nil, "", err
		}
	}
	return Stage(ctx, j.Object, path, staged, j.Progress)
}

// admit refuses a file that is larger than it may be.
func (j Job) admit(size int64) error {
	limit := j.Origin.fileLimit(j.MaxBytes)
	if size <= limit {
		return nil
	}
	return providers.Errorf(providers.ErrInvalid, j.Object, "%s has %d bytes, and the limit is %d: raise spec.source.disk.maxSize or the daemon's limit, or name another file",
		j.Origin, size, limit)
}

// download downloads a file of a digest; an empty one is not known. What an
// earlier process received may have been damaged since, by the host's own crash:
// when the digest is not the wanted one, it is all downloaded once more.
func (j Job) download(ctx context.Context, r fetch.Request, staged, digest string) (*os.File, string, error) {
	r.Object, r.Stall, r.Step = j.Object, j.Stall, j.Step
	r.Dir = filepath.Join(filepath.Dir(staged), downloads)
	if r.MaxBytes == 0 {
		r.MaxBytes = j.Origin.fileLimit(j.MaxBytes)
	}
	r.Progress = func(done, total int64) {
		j.Progress(providers.Progress{Stage: "downloading", Done: done, Total: total})
	}
	r.Progress(0, 0)
	got, err := fetch.Get(ctx, r)
	if err == nil && got.Resumed && digest != "" && got.Digest != digest {
		if err := os.RemoveAll(r.Dir); err != nil {
			return nil, "", err
		}
		got, err = fetch.Get(ctx, r)
	}
	if err != nil {
		return nil, "", err
	}
	f, err := os.Open(got.Path)
	return f, got.Digest, err
}

// wanted is the digest that a source must have, and who says so.
type wanted struct{ digest, saidBy, advice string }

// wanted finds out which digest a disk file must have, in hexadecimal. Without
// the manifest's word and a file of checksums, it is that of the first import.
func (j Job) wanted(ctx context.Context) (wanted, error) {
	switch d := j.Origin.Disk; {
	case d.SHA256 != "":
		return wanted{d.SHA256, "spec.source.disk.sha256 is", "correct the manifest or the file"}, nil
	case d.ChecksumURL != "":
		digest, err := j.published(ctx, d)
		return wanted{digest, fetch.Shown(d.ChecksumURL) + " says", "the file was changed or damaged on its way: find out why, and do not use it before"}, err
	}
	return j.recorded("set spec.source.disk.sha256 to the new digest if the new file is the one you want, or put the old one back"), nil
}

func (j Job) recorded(advice string) wanted {
	return wanted{strings.TrimPrefix(j.Origin.Digest, "sha256:"), "at its first import it had", advice}
}

// check compares.
func (w wanted) check(object, what, digest string) error {
	if w.digest == "" || w.digest == digest {
		return nil
	}
	return providers.Errorf(providers.ErrInvalid, object, "%s has sha256 %s, but %s %s: %s",
		what, digest, w.saidBy, w.digest, w.advice).WithReason(providers.ReasonDigestMismatch)
}

// published reads the digest of a file from the file of checksums beside it.
func (j Job) published(ctx context.Context, d *v1.DiskSource) (string, error) {
	name := ""
	if u, err := url.Parse(d.URL); err == nil {
		name = path.Base(u.Path)
	}
	b, err := fetch.Small(ctx, fetch.Request{Object: j.Object, URL: d.ChecksumURL, MaxBytes: checksums.MaxSize, Stall: j.Stall})
	if err != nil {
		return "", err
	}
	digest, err := checksums.Find(b, name)
	if err != nil {
		return "", providers.Errorf(providers.ErrInvalid, j.Object, "%s has %w for %q, the last part of spec.source.disk.url: correct one of the addresses, or give spec.source.disk.sha256",
			fetch.Shown(d.ChecksumURL), err, name)
	}
	return digest, nil
}

// Begin makes the folder of an import, empty but for a download that may be gone
// on with.
func Begin(dir string, mode os.FileMode) error {
	if err := wipe(dir, true); err != nil {
		return err
	}
	return files.Mkdir(dir, mode)
}

// End removes the folder of an import that came to an end, but for a download
// that the next one may go on with.
func End(dir string, err error) {
	_ = wipe(dir, err != nil && fetch.Kept(err))
}

// wipe removes a folder with all that is in it; or all but the download, if that
// is of any use.
func wipe(dir string, keep bool) error {
	if !keep || !fetch.Resumable(filepath.Join(dir, downloads)) {
		return os.RemoveAll(dir)
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != downloads {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// Sweep removes what downloads of an image's other revisions left, which nobody
// will go on with: of each image one such download is kept at most. lock gives
// the exclusive use of a revision, unless somebody has it.
func Sweep(imageDir, keep string, lock func(revision string) (unlock func(), ok bool)) {
	const suffix = ".import"
	left, _ := filepath.Glob(filepath.Join(imageDir, "*"+suffix, downloads))
	for _, dir := range left {
		staging := filepath.Dir(dir)
		revision := strings.TrimSuffix(filepath.Base(staging), suffix)
		if revision == keep {
			continue
		}
		if unlock, ok := lock(revision); ok {
			_ = os.RemoveAll(dir)
			_ = os.Remove(staging)
			unlock()
		}
	}
}
