//go:build linux

package kvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

// layout names everything in the data folder:
//
//	DataDir                                0711
//	├── instance                           whose folder it is
//	├── images/UID/REVISION.qcow2          0444, never changes
//	│             REVISION.json            written last: with it the image is sealed
//	│             REVISION.import/         an import under way, or what one left
//	└── machines/UID/disk.qcow2            overlay on the image
//	              seed.iso                 cloud-init's seed
//	              console.log, .0, .1, ... serial console; virtlogd rotates it
//	              network                  UUID of the network it needs, if any
//
// QEMU runs as a user of its own and reaches its files by their full path, so
// the directories may be passed through by anybody but listed by root only.
type layout struct{ root string }

const (
	dirMode  = 0o711
	fileMode = 0o600
)

func (l layout) images() string                 { return filepath.Join(l.root, "images") }
func (l layout) machines() string               { return filepath.Join(l.root, "machines") }
func (l layout) imageDir(id types.UID) string   { return filepath.Join(l.images(), string(id)) }
func (l layout) machineDir(id types.UID) string { return filepath.Join(l.machines(), string(id)) }
func (l layout) disk(id types.UID) string       { return filepath.Join(l.machineDir(id), "disk.qcow2") }

func (l layout) seed(id types.UID) string { return filepath.Join(l.machineDir(id), "seed.iso") }

func (l layout) console(id types.UID) string { return filepath.Join(l.machineDir(id), "console.log") }

func (l layout) networkRef(id types.UID) string { return filepath.Join(l.machineDir(id), "network") }

func (l layout) image(r providers.ImageRef) string {
	return filepath.Join(l.imageDir(r.UID), r.Revision+".qcow2")
}

func (l layout) sidecar(r providers.ImageRef) string {
	return filepath.Join(l.imageDir(r.UID), r.Revision+".json")
}

func (l layout) staging(r providers.ImageRef) string {
	return filepath.Join(l.imageDir(r.UID), r.Revision+".import")
}

// refOf undoes image: it names the image whose file has a path.
func (l layout) refOf(path string) (providers.ImageRef, bool) {
	rest, ok := strings.CutPrefix(path, l.images()+"/")
	if !ok {
		return providers.ImageRef{}, false
	}
	uid, file, ok := strings.Cut(rest, "/")
	ref := providers.ImageRef{UID: types.UID(uid), Revision: strings.TrimSuffix(file, ".qcow2")}
	return ref, ok && checkRef(ref) == nil && l.image(ref) == path
}

// claim makes the folder, or finds out that it belongs to another instance.
func (l layout) claim(instance providers.Instance) error {
	for _, dir := range []string{l.root, l.images(), l.machines()} {
		if err := os.MkdirAll(dir, dirMode); err != nil {
			return err
		}
		if err := os.Chmod(dir, dirMode); err != nil { // whatever the umask
			return err
		}
	}
	mark := filepath.Join(l.root, "instance")
	was, err := os.ReadFile(mark)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return files.Write(mark, []byte(string(instance)+"\n"), fileMode)
	case err != nil:
		return err
	case strings.TrimSpace(string(was)) != string(instance):
		return fmt.Errorf("it holds the machines of another sandboxd instance (%s): give each instance a data folder of its own", strings.TrimSpace(string(was)))
	}
	return nil
}

var fileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$`)

// checkRef refuses what cannot be a file's name.
func checkRef(r providers.ImageRef) error {
	for _, s := range []string{string(r.UID), r.Revision} {
		if !fileName.MatchString(s) {
			return providers.Errorf(providers.ErrInvalid, "image "+r.String(), "%q cannot be the name of a file", s)
		}
	}
	return nil
}

// isUUID tells whether a machine may have this ID.
func isUUID(id types.UID) bool {
	u, err := uuid.Parse(string(id))
	return err == nil && u.String() == string(id)
}
