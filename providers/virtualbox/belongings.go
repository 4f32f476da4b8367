package virtualbox

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// VirtualBox, asked to delete a machine with all that belongs to it, deletes whatever
// is in its drives, or was in those of its snapshots: also a disk or an image of a CD
// that somebody has put there, wherever it lies. A machine that has such media is
// unregistered only, and what lies in its folder is removed by us.

// holdsOthers tells whether a machine, or a snapshot of it, has a medium that does not
// lie in its folder, or may have.
func (p *Provider) holdsOthers(r record) bool {
	f, err := os.Open(p.definition(r))
	if err != nil {
		return true
	}
	defer func() { _ = f.Close() }()
	used, places, err := mediaIn(io.LimitReader(f, definitionLimit))
	if err != nil {
		return true
	}
	own, err := vdisIn(p.vmDir(r))
	if err != nil {
		return true
	}
	for _, id := range used {
		place, known := places[id]
		if known && !filepath.IsAbs(place) {
			place = filepath.Join(p.vmDir(r), place)
		}
		if _, is := own[id]; !is && (!known || !within(p.data.MachineDir(r.ID), place)) {
			return true
		}
	}
	return false
}

// mediaIn reads which media the drives of a definition have, those of its snapshots
// among them, by their UUIDs; and where those lie that the definition itself
// registers.
func mediaIn(r io.Reader) (used []string, places map[string]string, err error) {
	places = map[string]string{}
	d := xml.NewDecoder(r)
	inDrive := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return used, places, nil
		}
		if err != nil {
			return nil, nil, err
		}
		switch e := token.(type) {
		case xml.StartElement:
			id := strings.Trim(attribute(e, "uuid"), "{}")
			switch {
			case e.Name.Local == "AttachedDevice":
				inDrive++
			case e.Name.Local == "Image" && inDrive > 0:
				used = append(used, id)
			case e.Name.Local == "Image" || e.Name.Local == "HardDisk":
				places[id] = attribute(e, "location")
			}
		case xml.EndElement:
			if e.Name.Local == "AttachedDevice" {
				inDrive--
			}
		}
	}
}

func attribute(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}
