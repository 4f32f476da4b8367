package virtualbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

// uuidKnown is what VirtualBox says to a UUID that it has.
const uuidKnown = `refuse() {
	echo "VBoxManage: error: $1
VBoxManage: error: Details: code $2, component VirtualBoxWrap" >&2
	exit 1
}
known() { refuse 'Machine with that UUID already exists' 'NS_ERROR_INVALID_ARG (0x80070057)'; }
`

// TestClonedAlready: a machine that VirtualBox has registered by an earlier call,
// whose end nobody saw, is not wrong: it is there at the next call.
func TestClonedAlready(t *testing.T) {
	p, dir := answering(t, uuidKnown+`case $1 in
clonevm)
	id=$6
	vm=$PWD/data/machines/$id/$4
	mkdir -p "$vm"
	echo '<VirtualBox><Machine><Hardware/></Machine></VirtualBox>' >"$vm/$4.vbox"
	echo "VMState=\"poweroff\"
CfgFile=\"$vm/$4.vbox\"
storagecontrollername0=\"IDE\"
\"IDE-0-0\"=\"$vm/Snapshots/a.vdi\"
\"IDE-ImageUUID-0-0\"=\"3c91bf36-d64f-4066-85df-3cee44b439cf\"
\"IDE-0-1\"=\"none\"" >$id
	known ;;
showvminfo) [ -e "$2" ] || refuse 'Could not find it' 'VBOX_E_OBJECT_NOT_FOUND (0x80bb0001)'; cat "$2" ;;
unregistervm) rm "$2" ;;
esac
`)
	ref := providers.ImageRef{UID: types.UID(uuid.NewString()), Revision: "1"}
	if err := files.Mkdir(p.data.ImageDir(ref.UID), dirMode); err != nil {
		t.Fatal(err)
	}
	img := providers.Image{ImageRef: ref, Format: v1.DiskFormatVDI, VirtualSize: 1 << 20}
	err := p.seal(sealed{Seal: p.sealOf(providers.ImageSpec{ImageRef: ref, Name: "golden"}, img), Machine: types.UID(uuid.NewString()), Snapshot: "s", Adopted: true})
	if err != nil {
		t.Fatal(err)
	}
	spec := providers.MachineSpec{
		ID: types.UID(uuid.NewString()), Namespace: "default", Name: "box", Image: ref, CPUs: 1, MemoryBytes: 32 << 20,
		Network: v1.Network{Mode: v1.NetworkNone},
	}
	if err := p.EnsureMachine(t.Context(), spec); !errors.Is(err, providers.ErrBusy) || !strings.Contains(err.Error(), "already exists") {
		t.Errorf("a machine that is there already: %v", err)
	}
	if !files.Exists(filepath.Join(dir, string(spec.ID))) {
		t.Error("the machine was removed")
	}
	if err := p.EnsureMachine(t.Context(), spec); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

// TestImportedBefore: what an earlier import has left in VirtualBox goes before
// its disk is written again. What cannot go is not written to, and is not taken
// for a fault of the manifest.
func TestImportedBefore(t *testing.T) {
	p, dir := answering(t, uuidKnown+`[ ! -e away ] || refuse 'It is away' 'NS_ERROR_FAILURE (0x80004005)'
case "$1" in
createvm)
	[ ! -e no-such-type ] || refuse 'Guest OS type is invalid' 'NS_ERROR_INVALID_ARG (0x80070057)'
	[ ! -e registered ] || known
	echo "$5" >registered ;;
unregistervm) [ -e registered ] || refuse 'Could not find it' 'VBOX_E_OBJECT_NOT_FOUND (0x80bb0001)'; rm registered ;;
list) [ "$2 -e" = "--long -e" ] || [ ! -e registered ] || printf '[vms]\n"golden" {%s}\n' "$(cat registered)" ;;
esac
`)
	raw := filepath.Join(dir, "disk.raw")
	content := bytes.Repeat([]byte("new "), 1<<18)
	if err := os.WriteFile(raw, content, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	ref := providers.ImageRef{UID: types.UID(uuid.NewString()), Revision: "1"}
	spec := providers.ImageSpec{ImageRef: ref, Name: "golden", Source: v1.ImageSource{Disk: &v1.DiskSource{Path: raw, Format: v1.DiskFormatRaw, SHA256: hex.EncodeToString(sum[:])}}}
	put := func(path, content string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), dirMode), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	take := func(name string) {
		t.Helper()
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	registered, golden := filepath.Join(dir, "registered"), string(goldenID("test", ref))
	importing := func(kind error) {
		t.Helper()
		if _, err := p.ImportImage(context.Background(), spec, nil); !errors.Is(err, kind) {
			t.Errorf("got %v, want %v", err, kind)
		}
	}

	put(p.data.goldenDisk(ref), "old")
	put(registered, golden)
	put(filepath.Join(dir, "away"), "")
	importing(providers.ErrUnavailable)
	if b, err := os.ReadFile(p.data.goldenDisk(ref)); err != nil || string(b) != "old" {
		t.Errorf("a disk that VirtualBox may have open is now %d bytes, %v", len(b), err)
	}
	take("away")

	if err := os.RemoveAll(p.data.ImageDir(ref.UID)); err != nil { // with the disk nothing tells of the machine
		t.Fatal(err)
	}
	importing(providers.ErrBusy)
	put(filepath.Join(dir, "no-such-type"), "")
	importing(providers.ErrInvalid)
	take("no-such-type")
	importing(nil)
	if img, err := p.GetImage(t.Context(), ref); err != nil || img.ImageRef != ref {
		t.Errorf("the image is %+v, %v", img, err)
	}
}
