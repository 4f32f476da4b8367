package domain

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// Namespace of the element that marks a domain as ours, and its prefix.
const (
	Namespace = "https://sandboxd.dev/xmlns/machine/1"
	Prefix    = "sandboxd"
)

// Record is what a domain says about itself, in its metadata. It is all that
// the provider knows of a machine besides the domain's own settings.
type Record struct {
	// Instance the machine belongs to, in full.
	Instance providers.Instance `json:"instance"`
	// Owner is the UID of the Sandbox.
	Owner types.UID `json:"owner"`
	// Namespace and Name of the Sandbox.
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Image that the disk was cloned from.
	Image providers.ImageRef `json:"image"`
	// Hashes of the spec.
	Hashes providers.Hashes `json:"hashes"`
	// Network as asked for, the port forwards as resolved.
	Network v1.Network `json:"network"`
	// DiscardOnStop makes every start begin from the image.
	DiscardOnStop bool `json:"discardOnStop,omitempty"`
	// Made is what the domain was defined with; nil in what an older release
	// defined.
	Made *Made `json:"made,omitempty"`
}

// Errors of ReadRecord.
var (
	// ErrNoRecord: the domain was made by somebody else.
	ErrNoRecord = errors.New("has no sandboxd record")
	// ErrBadRecord: the domain bears our element, but it cannot be read.
	ErrBadRecord = errors.New("has a sandboxd record that cannot be read")
)

// element is the metadata element. The JSON is its text.
type element struct {
	XMLName xml.Name
	Xmlns   string `xml:"xmlns:sandboxd,attr,omitempty"`
	JSON    string `xml:",chardata"`
}

// Element returns the record as a metadata element. libvirt adds the namespace
// and prefix itself when it is set by call (bare), and wants them when it is
// part of a domain's definition.
func (r Record) Element(bare bool) (string, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	e := element{XMLName: xml.Name{Local: "machine"}, JSON: string(b)}
	if !bare {
		e.XMLName.Local, e.Xmlns = Prefix+":machine", Namespace
	}
	out, err := xml.Marshal(e)
	return string(out), err
}

// ReadRecord finds the record in the inner XML of a domain's metadata.
func ReadRecord(metadata string) (Record, error) {
	dec := xml.NewDecoder(strings.NewReader(metadata))
	for {
		tok, err := dec.Token()
		if err != nil {
			return Record{}, ErrNoRecord
		}
		start, ok := tok.(xml.StartElement)
		if !ok {
			continue
		}
		if start.Name.Space != Namespace || start.Name.Local != "machine" {
			if err := dec.Skip(); err != nil {
				return Record{}, ErrNoRecord
			}
			continue
		}
		var e element
		if err := dec.DecodeElement(&e, &start); err != nil {
			return Record{}, fmt.Errorf("%w: %w", ErrBadRecord, err)
		}
		return e.record()
	}
}

// ReadBare reads the element as libvirt answers with when it is asked for our
// namespace alone: without it.
func ReadBare(text string) (Record, error) {
	var e element
	if err := xml.Unmarshal([]byte(text), &e); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrBadRecord, err)
	}
	return e.record()
}

func (e element) record() (Record, error) {
	var r Record
	if err := json.Unmarshal([]byte(e.JSON), &r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrBadRecord, err)
	}
	if r.Instance == "" || r.Owner == "" {
		return Record{}, fmt.Errorf("%w: instance and owner are empty", ErrBadRecord)
	}
	return r, nil
}
