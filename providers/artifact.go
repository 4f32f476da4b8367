package providers

import (
	"strings"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// A disk image is kept in registries and OCI layouts as an artifact in the sense
// of the OCI image specification 1.1:
//
//	manifest: artifactType ArtifactType, config the empty one ({})
//	└── one layer: the disk file as it is, of media type ArtifactMediaType(format)
//
// The file is neither packed nor compressed: its format may be. On the layer,
// org.opencontainers.image.title is the file's name.
const (
	// ArtifactType of the manifests that are written. Those of others are read
	// whatever their type, if they have one layer and it is no tar archive.
	ArtifactType = "application/vnd.sandboxd.image.v1"
	// ArtifactMediaTypePrefix of the layer; the format follows.
	ArtifactMediaTypePrefix = "application/vnd.sandboxd.disk.v1."
	// ArtifactMaxManifest is the greatest size of a manifest that is read, in
	// bytes.
	ArtifactMaxManifest = 4 << 20
)

// ArtifactMediaType is the media type of a layer that is a disk of a format.
func ArtifactMediaType(f v1.DiskFormat) string { return ArtifactMediaTypePrefix + string(f) }

// ArtifactFormat undoes ArtifactMediaType; empty for the media types of others,
// of whose layers the format is detected.
func ArtifactFormat(mediaType string) v1.DiskFormat {
	f, _ := strings.CutPrefix(mediaType, ArtifactMediaTypePrefix)
	switch format := v1.DiskFormat(f); format {
	case v1.DiskFormatQCOW2, v1.DiskFormatRaw, v1.DiskFormatVDI, v1.DiskFormatVMDK, v1.DiskFormatVHD, v1.DiskFormatVHDX, v1.DiskFormatOVA:
		return format
	}
	return ""
}
