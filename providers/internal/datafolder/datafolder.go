// Package datafolder keeps what the data folders of all providers have in common:
// whose they are, where things lie in them, and what seals an image.
//
//	Root
//	├── instance                     whose folder it is
//	├── images/UID/REVISION.json     the seal: written last, with it the image is there
//	│             REVISION.import/   an import under way, or what one left
//	└── machines/UID/                of one machine
//
// What else there is, each provider says itself.
package datafolder

import (
	"encoding/json"
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

// FileMode is that of files which nobody but sandboxd needs.
const FileMode = 0o600

// Folder is the data folder of one provider.
type Folder struct {
	// Root is its path.
	Root string
	// Mode of its folders.
	Mode os.FileMode
	// Closed is the mode that a provider gives the root later on; 0 for none. A root
	// that has it keeps it.
	Closed os.FileMode
}

// Images is where all images are.
func (f Folder) Images() string { return filepath.Join(f.Root, "images") }

// Machines is where all machines are.
func (f Folder) Machines() string { return filepath.Join(f.Root, "machines") }

// ImageDir holds the revisions of an image.
func (f Folder) ImageDir(id types.UID) string { return filepath.Join(f.Images(), string(id)) }

// MachineDir holds what belongs to a machine.
func (f Folder) MachineDir(id types.UID) string { return filepath.Join(f.Machines(), string(id)) }

// Sidecar is the file of an image's seal.
func (f Folder) Sidecar(r providers.ImageRef) string {
	return filepath.Join(f.ImageDir(r.UID), r.Revision+".json")
}

// Staging is where an image is imported.
func (f Folder) Staging(r providers.ImageRef) string {
	return filepath.Join(f.ImageDir(r.UID), r.Revision+".import")
}

// Claim makes the folder, with folders of the provider's own in it, or finds out
// that it belongs to another instance.
func (f Folder) Claim(instance providers.Instance, own ...string) error {
	for _, dir := range append([]string{f.Root, f.Images(), f.Machines()}, own...) {
		if err := os.MkdirAll(dir, f.Mode); err != nil {
			return err
		}
		if info, err := os.Stat(dir); err == nil && dir == f.Root && f.Closed != 0 && info.Mode().Perm() == f.Closed {
			continue
		}
		if err := os.Chmod(dir, f.Mode); err != nil { // whatever the umask
			return err
		}
	}
	mark := filepath.Join(f.Root, "instance")
	b, err := os.ReadFile(mark)
	switch was := strings.TrimSpace(string(b)); {
	case errors.Is(err, fs.ErrNotExist):
		return files.Write(mark, []byte(string(instance)+"\n"), FileMode)
	case err != nil:
		return err
	case was != string(instance):
		return fmt.Errorf("it holds the machines of another sandboxd instance (%s): give each instance a data folder of its own", was)
	}
	return nil
}

// Error gives an error of the folder a kind; see files.Error.
func (f Folder) Error(object string, err error) error { return files.Error(object, f.Root, err) }

var name = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$`)

// IsName tells whether an image may have this UID or revision, which name its
// files.
func IsName(s string) bool { return name.MatchString(s) }

// CheckRef refuses, as ErrInvalid, what cannot be a file's name.
func CheckRef(r providers.ImageRef) error {
	for _, s := range []string{string(r.UID), r.Revision} {
		if !IsName(s) {
			return providers.Errorf(providers.ErrInvalid, "image "+r.String(), "%q cannot be the name of a file", s)
		}
	}
	return nil
}

// IsUUID tells whether a machine may have this ID.
func IsUUID(id types.UID) bool {
	u, err := uuid.Parse(string(id))
	return err == nil && u.String() == string(id)
}

// Seal says what an image is. A provider that has more to say embeds it.
type Seal struct {
	Instance providers.Instance `json:"instance"`
	Name     string             `json:"name"`
	Image    providers.Image    `json:"image"`
}

func (s Seal) seals(instance providers.Instance, ref providers.ImageRef) bool {
	return s.Instance == instance && s.Image.ImageRef == ref
}

// ReadSeal reads the seal of an image of an instance into a pointer to a Seal or
// to what embeds one. ErrNotFound when there is none or it is damaged.
func (f Folder) ReadSeal(instance providers.Instance, ref providers.ImageRef, into interface {
	seals(instance providers.Instance, ref providers.ImageRef) bool
},
) error {
	object := "image " + ref.String()
	b, err := os.ReadFile(f.Sidecar(ref))
	if errors.Is(err, fs.ErrNotExist) {
		return providers.Errorf(providers.ErrNotFound, object, "it was not imported")
	}
	if err != nil {
		return f.Error(object, err)
	}
	if err := json.Unmarshal(b, into); err != nil || !into.seals(instance, ref) {
		return f.Damaged(ref)
	}
	return nil
}

// Damaged says of an image that its seal is no seal.
func (f Folder) Damaged(ref providers.ImageRef) error {
	return providers.Errorf(providers.ErrNotFound, "image "+ref.String(), "its seal %s is damaged", f.Sidecar(ref))
}

// WriteSeal seals an image: a Seal or what embeds one is on disk when it returns.
func (f Folder) WriteSeal(ref providers.ImageRef, seal any, mode os.FileMode) error {
	b, err := json.MarshalIndent(seal, "", "  ")
	if err != nil {
		return err
	}
	if err := files.Write(f.Sidecar(ref), append(b, '\n'), mode); err != nil {
		return err
	}
	return files.SyncDir(f.Images())
}
