package virtualbox

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

// state is one of VirtualBox's snapshots of a machine.
type state struct {
	// uuid and name on the hypervisor.
	uuid, name string
	// memory is the file of the memory; empty without. VirtualBox takes it along
	// whenever the machine is on.
	memory string
	// disks by the place where they are attached: their UUIDs.
	disks map[place]string
	// note is our own word on it; none of one that somebody else took.
	note note
}

// place is where a disk is attached.
type place struct{ controller, port, device string }

func (d disk) place() place { return place{d.controller, d.port, d.device} }

// note is what we write into the description of a snapshot, after a line for people.
type note struct {
	Instance providers.Instance `json:"instance"`
	ID       types.UID          `json:"id"`
	Memory   bool               `json:"memory,omitempty"`
	Frozen   bool               `json:"frozen,omitempty"`
	TakenAt  time.Time          `json:"takenAt"`
	// Hardware, Network and Engine that the memory fits.
	Hardware string `json:"hardware"`
	Network  string `json:"network"`
	Engine   string `json:"engine"`
}

// A snapshot of ours has one of these names, with the UID of the SandboxSnapshot. A
// remnant is one that was not taken to its end, or is not removed to its end.
//
//	take ──▶ remnant ──rename──▶ snapshot ──rename──▶ remnant ──delete──▶ gone
const (
	snapshotName = "sandboxd-"
	remnantName  = "sandboxd-remnant-"
)

func (s state) committed() bool { return s.name == snapshotName+string(s.note.ID) }

func (s state) remnant() bool { return s.name == remnantName+string(s.note.ID) }

// describe is the description of a snapshot.
func (n note) describe(spec providers.SnapshotSpec) (string, error) {
	b, err := json.Marshal(n)
	return fmt.Sprintf("snapshot %s/%s of sandboxd\n%s", vmName(spec.Namespace), vmName(spec.Name), b), err
}

// parseNote reads a description. That of somebody else's snapshot is no note.
func parseNote(description string, instance providers.Instance) note {
	_, text, _ := strings.Cut(strings.TrimSpace(description), "\n")
	var n note
	if err := json.Unmarshal([]byte(text), &n); err != nil || n.Instance != instance || !datafolder.IsUUID(n.ID) {
		return note{}
	}
	return n
}

// snapshotElement is a snapshot in a machine's definition.
type snapshotElement struct {
	UUID        string              `xml:"uuid,attr"`
	Name        string              `xml:"name,attr"`
	StateFile   string              `xml:"stateFile,attr"`
	Description string              `xml:"Description"`
	Controllers []controllerElement `xml:"Hardware>StorageControllers>StorageController"`
	Before119   []controllerElement `xml:"StorageControllers>StorageController"`
	Children    []snapshotElement   `xml:"Snapshots>Snapshot"`
}

type controllerElement struct {
	Name    string `xml:"name,attr"`
	Devices []struct {
		Type   string `xml:"type,attr"`
		Port   string `xml:"port,attr"`
		Device string `xml:"device,attr"`
		Image  struct {
			UUID string `xml:"uuid,attr"`
		} `xml:"Image"`
	} `xml:"AttachedDevice"`
}

// readStates reads the snapshots in a machine's definition, which VirtualBox writes
// when one was taken or removed. Parents come before their children.
func readStates(path string, instance providers.Instance) ([]state, error) {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		time.Sleep(definitionPause)
		f, err = os.Open(path)
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var doc struct {
		Snapshots []snapshotElement `xml:"Machine>Snapshot"`
	}
	if err := xml.NewDecoder(io.LimitReader(f, definitionLimit)).Decode(&doc); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var all []state
	for todo := doc.Snapshots; len(todo) > 0; {
		e := todo[0]
		todo = slices.Concat(todo[1:], e.Children)
		all = append(all, e.state(filepath.Dir(path), instance))
	}
	return all, nil
}

func (e snapshotElement) state(dir string, instance providers.Instance) state {
	s := state{uuid: strings.Trim(e.UUID, "{}"), name: e.Name, memory: e.StateFile, disks: map[place]string{}}
	s.note = parseNote(e.Description, instance)
	if s.memory != "" && !filepath.IsAbs(s.memory) {
		s.memory = filepath.Join(dir, s.memory)
	}
	for _, c := range slices.Concat(e.Controllers, e.Before119) {
		for _, d := range c.Devices {
			if d.Type == "HardDisk" {
				s.disks[place{c.Name, d.Port, d.Device}] = strings.Trim(d.Image.UUID, "{}")
			}
		}
	}
	return s
}

// statesOf reads the snapshots of a machine of ours; none of one without a
// definition.
func (p *Provider) statesOf(r record) ([]state, error) {
	path := p.definition(r)
	if r.VM == "" || !files.Exists(path) {
		return nil, nil
	}
	all, err := readStates(path, p.opts.Instance)
	return all, p.fileError(machineObject(r.ID), err)
}

// find returns the snapshot of that UID.
func find(all []state, id types.UID) (state, bool) {
	i := slices.IndexFunc(all, func(s state) bool { return s.committed() && s.note.ID == id })
	if i < 0 {
		return state{}, false
	}
	return all[i], true
}

// remnantsOf returns what is left of the snapshot of that UID.
func remnantsOf(all []state, id types.UID) []state {
	return slices.DeleteFunc(slices.Clone(all), func(s state) bool { return !s.remnant() || s.note.ID != id })
}

// disksUnder lists the disks of snapshots, by their UUIDs.
func disksUnder(all []state) map[string]bool {
	under := map[string]bool{}
	for _, s := range all {
		for _, id := range s.disks {
			under[id] = true
		}
	}
	return under
}
