//go:build linux

package kvm

import (
	"fmt"
	"path/filepath"
	"strconv"
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
//	└── machines/UID/disk.qcow2            overlay on the image or on a layer
//	              layers/0001.qcow2, ...   0444: what disks were when snapshots were taken
//	              snapshots/UID.json       written last: with it the snapshot exists
//	              snapshots/UID.memory     what was in memory then
//	              origin                   the snapshot that it was forked from, if any
//	              memory                   saved state that the next start goes on with
//	              frozen                   its guest's file systems may be frozen
//	              reverted                 the next start discards nothing
//	              seed.iso                 cloud-init's seed, or the answers to an installer's questions
//	              no-base                  its disk was made empty, for an installer
//	              install.iso, .kernel, .initrd    an installer, until it has done its work
//	              console.log, .0, .1, ... serial console; virtlogd rotates it
//	              network                  UUID of the network it needs, if any, and the run of the host it was there in
//
// QEMU runs as a user of its own and reaches its files by their full path, so
// the directories may be passed through by anybody but listed by root only, and the
// uppermost lets QEMU's group through alone once that is known (closeFolder).
type layout struct{ datafolder.Folder }

func newLayout(root string) layout {
	return layout{datafolder.Folder{Root: root, Mode: dirMode, Closed: closedMode}}
}

const dirMode = 0o711

func (l layout) disk(id types.UID) string { return filepath.Join(l.MachineDir(id), "disk.qcow2") }

func (l layout) layers(id types.UID) string { return filepath.Join(l.MachineDir(id), "layers") }

func (l layout) layer(at place) string {
	return filepath.Join(l.layers(at.machine), fmt.Sprintf("%04d.qcow2", at.layer))
}

func (l layout) snapshots(id types.UID) string { return filepath.Join(l.MachineDir(id), "snapshots") }

func (l layout) snapshot(r providers.SnapshotRef) string {
	return filepath.Join(l.snapshots(r.Machine), string(r.ID)+".json")
}

func (l layout) snapshotMemory(r providers.SnapshotRef) string {
	return filepath.Join(l.snapshots(r.Machine), string(r.ID)+".memory")
}

func (l layout) origin(id types.UID) string { return filepath.Join(l.MachineDir(id), "origin") }

func (l layout) memory(id types.UID) string { return filepath.Join(l.MachineDir(id), "memory") }

func (l layout) frozen(id types.UID) string { return filepath.Join(l.MachineDir(id), "frozen") }

func (l layout) reverted(id types.UID) string { return filepath.Join(l.MachineDir(id), "reverted") }

func (l layout) installed(id types.UID) string { return filepath.Join(l.MachineDir(id), "no-base") }

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

// place names a layer of a machine's.
type place struct {
	machine types.UID
	layer   int
}

// placeOf undoes layer: it names the layer whose file has a path.
func (l layout) placeOf(path string) (place, bool) {
	rest, ok := strings.CutPrefix(path, l.Machines()+"/")
	if !ok {
		return place{}, false
	}
	id, file, _ := strings.Cut(rest, "/layers/")
	n, err := strconv.Atoi(strings.TrimSuffix(file, ".qcow2"))
	at := place{types.UID(id), n}
	return at, err == nil && n > 0 && datafolder.IsUUID(at.machine) && l.layer(at) == path
}
