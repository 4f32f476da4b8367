//go:build linux

package kvm

import (
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
)

// layout names everything in the data folder:
//
//	DataDir                                0711
//	├── instance                           whose folder it is
//	├── images/UID/REVISION.qcow2          0444, never changes
//	│             REVISION.json            written last: with it the image is sealed
//	│             REVISION.import/         an import under way, or what one left
//	└── machines/UID/disk.qcow2            overlay on the image
//	              seed.iso                 cloud-init's seed, or the answers to an installer's questions
//	              install.iso, .kernel, .initrd    an installer, until it has done its work
//	              console.log, .0, .1, ... serial console; virtlogd rotates it
//	              network                  UUID of the network it needs, if any
//
// QEMU runs as a user of its own and reaches its files by their full path, so
// the directories may be passed through by anybody but listed by root only.
type layout struct{ datafolder.Folder }

func newLayout(root string) layout { return layout{datafolder.Folder{Root: root, Mode: dirMode}} }

const dirMode = 0o711

func (l layout) disk(id types.UID) string { return filepath.Join(l.MachineDir(id), "disk.qcow2") }

func (l layout) seed(id types.UID) string { return filepath.Join(l.MachineDir(id), "seed.iso") }

func (l layout) console(id types.UID) string { return filepath.Join(l.MachineDir(id), "console.log") }

func (l layout) networkRef(id types.UID) string { return filepath.Join(l.MachineDir(id), "network") }

func (l layout) image(r providers.ImageRef) string {
	return filepath.Join(l.ImageDir(r.UID), r.Revision+".qcow2")
}

// refOf undoes image: it names the image whose file has a path.
func (l layout) refOf(path string) (providers.ImageRef, bool) {
	rest, ok := strings.CutPrefix(path, l.Images()+"/")
	if !ok {
		return providers.ImageRef{}, false
	}
	uid, file, ok := strings.Cut(rest, "/")
	ref := providers.ImageRef{UID: types.UID(uid), Revision: strings.TrimSuffix(file, ".qcow2")}
	return ref, ok && datafolder.CheckRef(ref) == nil && l.image(ref) == path
}
