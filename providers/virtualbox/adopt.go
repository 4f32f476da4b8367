package virtualbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// adoptee is an existing machine that is to become an image.
type adoptee struct {
	id       types.UID
	snapshot string // UUID; empty when it has to be taken
	name     string // of the snapshot
	disk     string // a disk's UUID
}

// examineMachine finds the machine and the snapshot that a source names. A
// machine without that snapshot must be off, so that it can be taken.
func (p *Provider) examineMachine(ctx context.Context, object string, spec providers.ImageSpec) (adoptee, error) {
	src := spec.Source.Machine
	a := adoptee{name: src.Snapshot}
	if a.name == "" {
		a.name = "sandboxd-" + spec.Revision
	}
	if strings.HasPrefix(src.Name, "-") || strings.HasPrefix(a.name, "-") || strings.ContainsFunc(src.Name+a.name, func(r rune) bool { return r < ' ' }) {
		return a, providers.Errorf(providers.ErrInvalid, object, "machine %q or snapshot %q has a name that VBoxManage takes for something else: name them by their UUIDs", src.Name, a.name)
	}
	info, err := p.vbox.Show(ctx, object, src.Name)
	if errors.Is(err, providers.ErrNotFound) {
		return a, providers.Errorf(providers.ErrNotFound, object, "VirtualBox has no machine %q (VBoxManage list vms)", src.Name).WithReason(providers.ReasonSourceNotFound)
	}
	if err != nil {
		return a, err
	}
	if p.madeBySandboxd(info["CfgFile"]) {
		return a, providers.Errorf(providers.ErrInvalid, object, "machine %q was made by sandboxd, which may delete it at any time: clone it with all of its disk (VBoxManage clonevm, without --options link) and name the clone", src.Name)
	}
	a.id = types.UID(info["UUID"])
	disks := disksOf(info)
	if !datafolder.IsUUID(a.id) || len(disks) == 0 {
		return a, providers.Errorf(providers.ErrInvalid, object, "machine %q has no disk to clone", src.Name)
	}
	a.disk = disks[0].medium
	a.snapshot = snapshotOf(info, a.name)
	if a.snapshot == "" && info["VMState"] != statePoweroff {
		return a, providers.Errorf(providers.ErrBusy, object, "machine %q has no snapshot %q and is %s: power it off, so that the snapshot can be taken", src.Name, a.name, info["VMState"])
	}
	return a, nil
}

// madeBySandboxd tells whether a machine's definition lies where this instance of
// sandboxd, or another one, keeps those that it makes; see layout.
func (p *Provider) madeBySandboxd(config string) bool {
	if within(p.data.Root, config) {
		return true
	}
	sandbox := newLayout(filepath.Join(config, "../../../.."))
	golden := newLayout(filepath.Join(sandbox.Root, ".."))
	return sandbox.claimed() && within(sandbox.Machines(), config) || golden.claimed() && within(golden.Images(), config)
}

// snapshotOf finds a machine's snapshot by its name or UUID and returns the UUID.
// The keys are SnapshotName, SnapshotName-1, SnapshotName-1-1 and so on.
func snapshotOf(info vboxmanage.Info, name string) string {
	for key, value := range info {
		if rest, ok := strings.CutPrefix(key, "SnapshotName"); ok {
			if id := info["SnapshotUUID"+rest]; value == name || id == name {
				return id
			}
		}
	}
	return ""
}

// adopt seals an existing machine as an image. The machine is not changed, but
// for the snapshot that is taken when it has none of that name; that one stays
// with it.
func (p *Provider) adopt(ctx context.Context, object string, spec providers.ImageSpec, progress func(providers.Progress)) (providers.Image, error) {
	progress(providers.Progress{Stage: "adopting"})
	a, err := p.examineMachine(ctx, object, spec)
	if err != nil {
		return providers.Image{}, err
	}
	if a.snapshot == "" {
		if err := p.manageImage(ctx, object, "snapshot", string(a.id), "take", a.name, "--description", "golden image "+spec.Name+" of sandboxd"); err != nil {
			return providers.Image{}, err
		}
		info, err := p.vbox.Show(ctx, object, string(a.id))
		if err != nil {
			return providers.Image{}, err
		}
		if a.snapshot = snapshotOf(info, a.name); a.snapshot == "" {
			return providers.Image{}, providers.Errorf(providers.ErrUnavailable, object, "VirtualBox took the snapshot %q and does not show it", a.name)
		}
	}
	medium, err := p.vbox.Medium(ctx, object, "", a.disk)
	if err != nil {
		return providers.Image{}, err
	}
	img := adopted(spec.ImageRef, medium)
	if err := files.Mkdir(p.data.ImageDir(spec.UID), dirMode); err != nil {
		return providers.Image{}, p.fileError(object, err)
	}
	if err := p.seal(sealed{Seal: p.sealOf(spec, img), Machine: a.id, Snapshot: a.snapshot, Adopted: true}); err != nil {
		_ = os.Remove(p.data.ImageDir(spec.UID))
		return providers.Image{}, p.fileError(object, err)
	}
	return img, nil
}

// adopted describes an image by VirtualBox's words on its disk. It has no digest:
// there is no file that it was made of.
func adopted(ref providers.ImageRef, medium map[string]string) providers.Image {
	img := providers.Image{ImageRef: ref, Format: v1.DiskFormatVDI, SealedAt: time.Now().UTC().Truncate(time.Second)}
	for format, name := range map[v1.DiskFormat]string{v1.DiskFormatVMDK: "VMDK", v1.DiskFormatVHD: "VHD"} {
		if strings.EqualFold(medium["Storage format"], name) {
			img.Format = format
		}
	}
	img.VirtualSize = megabytes(medium["Capacity"])
	img.ActualSize = megabytes(medium["Size on disk"])
	return img
}

// megabytes reads a size such as "256 MBytes"; 0 when it is none.
func megabytes(s string) int64 {
	number, unit, _ := strings.Cut(s, " ")
	n, err := strconv.ParseInt(number, 10, 40)
	if err != nil || unit != "MBytes" {
		return 0
	}
	return n << 20
}
