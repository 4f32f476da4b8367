package ova

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
)

// Bounds of the description.
const (
	maxTokens = 200_000
	maxDepth  = 64
	maxAttrs  = 64
)

// file and disk are the elements of an OVF that say where its disks are
// (DSP0243, sections 7.1 and 9.1).
type file struct{ id, href, compression, chunkSize string }

type disk struct{ id, fileRef, parentRef string }

// diskOf returns the file name of the one disk that an OVF describes. Disks
// without a file, which are to be made empty, do not count.
func diskOf(description []byte) (string, error) {
	filesByID, disks, err := parse(description)
	if err != nil {
		return "", err
	}
	var refs []string
	for _, d := range disks {
		if d.parentRef != "" {
			return "", invalid("its disk %q lies on another one", d.id)
		}
		if d.fileRef != "" {
			refs = append(refs, d.fileRef)
		}
	}
	switch len(refs) {
	case 0:
		return "", invalid("its .ovf describes no disk that is in the archive")
	case 1:
	default:
		return "", invalid("its .ovf describes %d disks, and an image has one", len(refs))
	}
	f, ok := filesByID[refs[0]]
	switch {
	case !ok:
		return "", invalid("its .ovf refers to the file %q, which it does not list", refs[0])
	case f.compression != "" && f.compression != "identity":
		return "", invalid("its disk is compressed with %s: export the machine without compressing its files", f.compression)
	case f.chunkSize != "":
		return "", invalid("its disk is split into chunks: export the machine as one file")
	case !plain(f.href):
		return "", invalid("its .ovf says that the disk is at %q, which is not the name of a file in the archive", f.href)
	}
	return f.href, nil
}

// parse reads the lists of files and disks, wherever they stand in the document.
// Nothing in it is expanded or loaded: it is UTF-8 without a document type.
func parse(description []byte) (map[string]file, []disk, error) {
	d := xml.NewDecoder(bytes.NewReader(description))
	filesByID := map[string]file{}
	var disks []disk
	var inside []string
	for range maxTokens {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			if len(inside) > 0 {
				return nil, nil, invalid("its .ovf is cut off")
			}
			return filesByID, disks, nil
		}
		if err != nil {
			return nil, nil, invalid("its .ovf is not proper XML in UTF-8: %v", err)
		}
		switch e := token.(type) {
		case xml.Directive:
			return nil, nil, invalid("its .ovf has a document type declaration, which is not taken")
		case xml.StartElement:
			if len(inside) == maxDepth || len(e.Attr) > maxAttrs {
				return nil, nil, invalid("its .ovf is nested deeper than anybody writes one")
			}
			if f, ok := fileOf(e, inside); ok {
				if _, twice := filesByID[f.id]; twice || f.id == "" {
					return nil, nil, invalid("its .ovf lists the file %q twice, or one without an id", f.id)
				}
				filesByID[f.id] = f
			}
			if e.Name.Local == "Disk" && parent(inside) == "DiskSection" {
				disks = append(disks, disk{id: attr(e, "diskId"), fileRef: attr(e, "fileRef"), parentRef: attr(e, "parentRef")})
			}
			inside = append(inside, e.Name.Local)
		case xml.EndElement:
			inside = inside[:len(inside)-1]
		}
	}
	return nil, nil, invalid("its .ovf is longer than anybody writes one")
}

func fileOf(e xml.StartElement, inside []string) (file, bool) {
	if e.Name.Local != "File" || parent(inside) != "References" {
		return file{}, false
	}
	return file{id: attr(e, "id"), href: attr(e, "href"), compression: strings.ToLower(attr(e, "compression")), chunkSize: attr(e, "chunkSize")}, true
}

func parent(inside []string) string {
	if len(inside) == 0 {
		return ""
	}
	return inside[len(inside)-1]
}

// attr is an attribute's value, whatever prefix it has.
func attr(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}
