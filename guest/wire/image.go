package wire

// Disk is an endpoint below a GoldenImage: its disk, as a file.
//
//	GET …/goldenimages/NAME/disk?format=…&revision=…
const Disk = "disk"

// Parameters of Disk. Without them it is the current revision, in the format that
// the provider keeps it in.
const (
	ParamFormat   = "format"
	ParamRevision = "revision"
)

// What is told of a disk: its format and size before it, its digest (sha256:HEX)
// behind it.
const (
	HeaderFormat  = "X-Disk-Format"
	HeaderSize    = "X-Disk-Size"
	TrailerDigest = "X-Disk-Digest"
)
