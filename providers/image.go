package providers

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// ImageRef names one sealed revision of a GoldenImage.
type ImageRef struct {
	// UID of the GoldenImage, a UUID.
	UID types.UID `json:"uid"`
	// Revision as made by RevisionOf: letters and digits.
	Revision string `json:"revision"`
}

// String formats the reference for messages.
func (r ImageRef) String() string { return string(r.UID) + "@" + r.Revision }

// RevisionOf derives the name of a revision from what determines its content.
func RevisionOf(source v1.ImageSource, provision []v1.ProvisionStep) string {
	return hashOf(struct {
		Source    v1.ImageSource
		Provision []v1.ProvisionStep
	}{source, provision})
}

// ImageSpec says what to import.
type ImageSpec struct {
	ImageRef
	// Name of the GoldenImage, for messages and for people who look at the
	// hypervisor.
	Name string
	// Source as in the manifest; host paths are resolved: absolute, below an
	// allowed root, no symlinks.
	Source v1.ImageSource
	// From, when set, takes the place of Source: the disk of a machine of ours
	// that is off, or of a snapshot, is copied whole and sealed. Its Digest is
	// that of the sealed file.
	From *DiskRef
	// Digest is the source's as it was recorded when the same revision was
	// imported before, as sha256:HEX; empty at the first time. A source for which
	// the manifest gives neither digest nor checksums must have it still.
	Digest string
	// MaxBytes that a source may have, and a disk as a guest sees it; 0 means the
	// provider's own limit.
	MaxBytes int64
	// Provision as in the manifest.
	Provision []v1.ProvisionStep
	// Machine is the hardware the image expects.
	Machine v1.MachineDefaults
}

// Image is a sealed image as observed.
type Image struct {
	ImageRef
	// Digest of the source file, as sha256:HEX.
	Digest string
	// Format of the source file.
	Format v1.DiskFormat
	// VirtualSize of the disk, in bytes.
	VirtualSize int64
	// ActualSize on the host, in bytes.
	ActualSize int64
	// SealedAt is when the import ended.
	SealedAt time.Time
}

// Progress of a long operation. Total is 0 when it is not known.
type Progress struct {
	// Stage is a word such as "reading" or "converting".
	Stage string
	// Done and Total are in bytes.
	Done, Total int64
}

// Condition reasons that ImportImage puts on its errors, besides the kinds'.
// A source that does not exist is ErrNotFound, because it may still appear; a
// server that does not answer, stalls, or cuts a download off is ErrUnavailable;
// the others are ErrInvalid.
const (
	// ReasonDigestMismatch: the source has another digest than the manifest, the
	// file of checksums or the first import says.
	ReasonDigestMismatch = "DigestMismatch"
	// ReasonFormatMismatch: the source is not of the stated or of any known format.
	ReasonFormatMismatch = "FormatMismatch"
	// ReasonBackingFile: the source refers to another file of the host.
	ReasonBackingFile = "BackingFile"
	// ReasonSourceNotFound: the source does not exist.
	ReasonSourceNotFound = "SourceNotFound"
)

// MaxCheckedDigest is the greatest size of a file whose digest CheckSource
// computes, in bytes: one second or two of reading.
const MaxCheckedDigest = 1 << 30

// Images keeps golden images. A sealed image never changes.
type Images interface {
	// CheckSource looks for what is wrong with a source, as far as a few
	// seconds tell: whether it is there and of the stated format, whether it
	// refers to other files, and its digest when the file has at most
	// MaxCheckedDigest bytes. It changes nothing. Its errors are those of
	// ImportImage, which makes the same checks itself; nil promises nothing.
	CheckSource(ctx context.Context, spec ImageSpec) error

	// ImportImage reads the source, verifies it, converts it to the
	// provider's own format and seals it. It returns at once when the revision
	// is sealed already. It may take minutes; progress may be nil, and is
	// called at least once otherwise, before the image is sealed. Interrupted
	// or failed, it leaves nothing that GetImage or Inventory takes for an
	// image, and the next call begins anew, but for a download: what was
	// received is kept, and listed as the image's, if the server can go on from
	// there and the error is ErrUnavailable or the context's. The next import or
	// deletion of any revision of the image removes or uses it. ErrUnsupported
	// for a kind of source that this provider cannot import.
	ImportImage(ctx context.Context, spec ImageSpec, progress func(Progress)) (Image, error)

	// GetImage returns a sealed image or ErrNotFound.
	GetImage(ctx context.Context, ref ImageRef) (Image, error)

	// DeleteImage removes a sealed image and whatever an interrupted import
	// left. ErrBusy while a machine's disk depends on it. ErrNotFound when
	// there is nothing (any more).
	DeleteImage(ctx context.Context, ref ImageRef) error
}
