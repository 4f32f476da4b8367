package virtualbox

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

// layout names everything in the data folder:
//
//	DataDir                                  0700
//	├── instance                             whose folder it is
//	├── images/UID/REVISION.json             written last: with it the image is sealed
//	│             REVISION/disk.vdi          of the golden machine
//	│             REVISION/NAME/             the golden machine, as VirtualBox keeps it
//	│             REVISION.import/           an import under way, or what one left
//	├── machines/UID/record.json             what the machine was made from
//	│               console.log, .0, .1      serial console, and what it was before
//	│               NAME/                    the machine, as VirtualBox keeps it
//	│                    seed.iso            cloud-init's seed, or an installer's answers
//	│                    install.*           an installer (providers/internal/installer)
//	│                    Unattended-*        what VirtualBox makes of it and the answers
//	│                    disk-N.vdi          a disk that took the place of the clone's
//	│                    Snapshots/          VirtualBox's disks and memories
//	│                              reverted-UUID.sav   a snapshot's memory, to go on with
//	├── networks/KEY.json                    host-only networks that we made
//	└── tty/ID                               a socket in place of console.log, while somebody types
//
// VirtualBox's processes run as the user of whoever first called VBoxManage, so
// nobody else needs to get in.
type layout struct{ datafolder.Folder }

func newLayout(root string) layout { return layout{datafolder.Folder{Root: root, Mode: dirMode}} }

const dirMode = 0o700

// claimed tells whether the folder is some instance's.
func (l layout) claimed() bool { return files.Exists(filepath.Join(l.Root, "instance")) }

func (l layout) networks() string           { return filepath.Join(l.Root, "networks") }
func (l layout) record(id types.UID) string { return filepath.Join(l.MachineDir(id), "record.json") }

func (l layout) console(id types.UID) string { return filepath.Join(l.MachineDir(id), "console.log") }

func (l layout) golden(r providers.ImageRef) string {
	return filepath.Join(l.ImageDir(r.UID), r.Revision)
}

func (l layout) goldenDisk(r providers.ImageRef) string {
	return filepath.Join(l.golden(r), "disk.vdi")
}

// machineIDs lists the machines that have a folder.
func (l layout) machineIDs() ([]types.UID, error) {
	dirs, err := os.ReadDir(l.Machines())
	if err != nil {
		return nil, err
	}
	var ids []types.UID
	for _, d := range dirs {
		if id := types.UID(d.Name()); datafolder.IsUUID(id) && d.IsDir() {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// space is the UUID namespace of the golden machines: sandboxd's own, made once.
var space = uuid.MustParse("1f3c54e6-6f1a-5c39-8a4e-9a0d3f4b7c10")

// goldenID is the UUID of an image's golden machine.
func goldenID(i providers.Instance, r providers.ImageRef) types.UID {
	return types.UID(uuid.NewSHA1(space, fmt.Appendf(nil, "%s/%s/%s", i, r.UID, r.Revision)).String())
}

var odd = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// vmName is a machine's name on the hypervisor, for people, and its folder's:
// short enough for any file system.
func vmName(parts ...string) string {
	for i, p := range parts {
		p = odd.ReplaceAllString(p, "-")
		parts[i] = cmp.Or(strings.Trim(p[:min(len(p), 60)], ".-"), "x")
	}
	return strings.Join(parts, ".")
}

// record is what a machine was made from, or is being made from.
type record struct {
	Instance  providers.Instance `json:"instance"`
	ID        types.UID          `json:"id"`
	Namespace string             `json:"namespace"`
	Name      string             `json:"name"`
	// VM is the machine's name on the hypervisor.
	VM    string             `json:"vm"`
	Image providers.ImageRef `json:"image"`
	// Snapshot that its disk lies on, of a fork.
	Snapshot *providers.SnapshotRef `json:"snapshot,omitempty"`
	// Hashes of the spec in effect; none while the machine is being changed.
	Hashes        providers.Hashes  `json:"hashes"`
	Network       v1.Network        `json:"network"`
	SharedFolders []v1.SharedFolder `json:"sharedFolders,omitempty"`
	Engine        string            `json:"engine,omitempty"`
	// CPUs and MemoryBytes that it was last made with; 0 until it was made to the end,
	// and of one that an earlier version made.
	CPUs          int   `json:"cpus,omitempty"`
	MemoryBytes   int64 `json:"memoryBytes,omitempty"`
	DiscardOnStop bool  `json:"discardOnStop,omitempty"`
	// DiskBytes the disk was grown to.
	DiskBytes int64 `json:"diskBytes,omitempty"`
	// Disk is the file of the machine's disk, when it was last known.
	Disk string `json:"disk,omitempty"`
	// Disks is how many disks of its own it was made with; 0 until then, and of one that
	// an earlier version made.
	Disks int `json:"disks,omitempty"`
	// Kept is the disk that a clone in the making gets in the place of its own.
	Kept string `json:"kept,omitempty"`
	// Fresh: the disk was not written to since it was cloned.
	Fresh bool `json:"fresh,omitempty"`
	// Reverted: the disk was put back to a snapshot, and not written to since.
	Reverted bool `json:"reverted,omitempty"`
	// Installer says what an installation of the machine's system is told by; empty
	// when there is none, or no more.
	Installer instructions `json:"installer,omitempty"`
	// Forced: it was powered off by us, not by its guest.
	Forced bool `json:"forced,omitempty"`
	// Starting: it was started, and not yet seen to run as it should.
	Starting bool `json:"starting,omitempty"`
}

// readRecord reads a machine's record; fs.ErrNotExist when there is none or it
// is not what we wrote.
func (p *Provider) readRecord(id types.UID) (record, error) {
	b, err := os.ReadFile(p.data.record(id))
	if errors.Is(err, syscall.ENOTDIR) {
		return record{}, fmt.Errorf("%s is no folder: %w", p.data.MachineDir(id), fs.ErrNotExist)
	}
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil || r.ID != id || r.Instance != p.opts.Instance {
		return record{}, fmt.Errorf("%s is damaged: %w", p.data.record(id), fs.ErrNotExist)
	}
	return r, nil
}

func (p *Provider) writeRecord(r record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	p.steps.next()
	return p.fileError(machineObject(r.ID), files.Write(p.data.record(r.ID), append(b, '\n'), datafolder.FileMode))
}

// short is n hexadecimal digits of a hash.
func short(s string, n int) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(s)))[:n]
}
