package virtualbox

import (
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// hidden is what a machine's definition says and showvminfo does not: whether the
// guest may write to a shared folder, and the extra data, which a clone has from
// its golden machine; and, without a process, whether it has snapshots.
type hidden struct {
	Folders []struct {
		Name     string `xml:"name,attr"`
		Writable bool   `xml:"writable,attr"`
	} `xml:"Machine>Hardware>SharedFolders>SharedFolder"`
	Extra []struct {
		Name string `xml:"name,attr"`
	} `xml:"Machine>ExtraData>ExtraDataItem"`
	Snapshots []struct{} `xml:"Machine>Snapshot"`
}

const (
	// definitionLimit is the most, in bytes, that is read of a definition. One with
	// hundreds of snapshots is a few megabytes.
	definitionLimit = 16 << 20
	// definitionPause is for VirtualBox to put a new definition in the place of the
	// old one, which it moves away first.
	definitionPause = 50 * time.Millisecond
)

// readDefinition reads what is hidden in a definition.
func readDefinition(path string) (hidden, error) {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		time.Sleep(definitionPause)
		f, err = os.Open(path)
	}
	if err != nil {
		return hidden{}, err
	}
	defer func() { _ = f.Close() }()
	var h hidden
	if err := xml.NewDecoder(io.LimitReader(f, definitionLimit)).Decode(&h); err != nil {
		return hidden{}, fmt.Errorf("%s: %w", path, err)
	}
	return h, nil
}

// flaws says what of it a sandbox must not have.
func (h hidden) flaws(want []v1.SharedFolder) []flaw {
	var found []flaw
	for _, f := range h.Folders {
		readOnly := slices.ContainsFunc(want, func(w v1.SharedFolder) bool { return w.Name == f.Name && w.IsReadOnly() })
		if f.Writable && readOnly {
			found = append(found, opened(v1.ReasonDefinitionChanged, "the guest may write to the shared folder %q, which its spec makes read-only", f.Name))
		}
	}
	if names := h.internals(); len(names) > 0 {
		found = append(found, opened(v1.ReasonDefinitionChanged, "it has the extra data %s, which changes what VirtualBox keeps from the guest", shown(names[0])))
	}
	return found
}

// internals lists the extra data by which VirtualBox's insides are changed, such as
// devices, and whether guests may make symbolic links in shared folders.
func (h hidden) internals() []string {
	var names []string
	for _, e := range h.Extra {
		if strings.HasPrefix(e.Name, "VBoxInternal") {
			names = append(names, e.Name)
		}
	}
	return names
}
