package datafolder_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
)

func TestClaim(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a", "data")
	f := datafolder.Folder{Root: root, Mode: 0o711}
	own := filepath.Join(root, "own")
	for range 2 { // again after a restart
		if err := f.Claim("one", own); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{root, f.Images(), f.Machines(), own} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o711 {
			t.Errorf("%s: %v, %v", dir, info, err)
		}
	}
	f.Closed = 0o710
	if err := os.Chmod(root, f.Closed); err != nil {
		t.Fatal(err)
	}
	if err := f.Claim("one", own); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(root); err != nil || info.Mode().Perm() != f.Closed {
		t.Errorf("a folder that was closed: %v, %v", info.Mode(), err)
	}
	if err := f.Claim("two"); err == nil || !strings.Contains(err.Error(), "one") {
		t.Errorf("another instance's folder: %v", err)
	}
}

func TestNames(t *testing.T) {
	for _, s := range []string{"", ".", "..", "../x", "a/b", "a\x00", ".hidden", "-x", strings.Repeat("a", 200)} {
		for _, ref := range []providers.ImageRef{{UID: "ok", Revision: s}, {UID: types.UID(s), Revision: "ok"}} {
			if !errors.Is(datafolder.CheckRef(ref), providers.ErrInvalid) {
				t.Errorf("%q may name an image's files", ref)
			}
		}
	}
	if err := datafolder.CheckRef(providers.ImageRef{UID: "0a-B_", Revision: strings.Repeat("a", 128)}); err != nil {
		t.Error(err)
	}
	for id, good := range map[types.UID]bool{
		"6253d238-8ffa-4c3a-ad45-3cb04de2eed4": true, "6253D238-8FFA-4C3A-AD45-3CB04DE2EED4": false,
		"6253d2388ffa4c3aad453cb04de2eed4": false, "{6253d238-8ffa-4c3a-ad45-3cb04de2eed4}": false, "": false, "../x": false,
	} {
		if datafolder.IsUUID(id) != good {
			t.Errorf("%q is a machine's ID: %t", id, !good)
		}
	}
}

// more is what a provider makes of a seal.
type more struct {
	datafolder.Seal
	Extra string `json:"extra"`
}

func TestSeal(t *testing.T) {
	f := datafolder.Folder{Root: t.TempDir(), Mode: 0o700}
	ref := providers.ImageRef{UID: "uid", Revision: "rev"}
	if err := errors.Join(f.Claim("one"), os.Mkdir(f.ImageDir(ref.UID), 0o700)); err != nil {
		t.Fatal(err)
	}
	var got more
	if err := f.ReadSeal("one", ref, &got); !errors.Is(err, providers.ErrNotFound) {
		t.Errorf("without a seal: %v", err)
	}
	want := more{datafolder.Seal{Instance: "one", Name: "debian", Image: providers.Image{ImageRef: ref, VirtualSize: 5}}, "more"}
	if err := f.WriteSeal(ref, want, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := f.ReadSeal("one", ref, &got); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if b, err := os.ReadFile(f.Sidecar(ref)); err != nil || !strings.HasPrefix(string(b), "{\n  \"instance\": \"one\",") {
		t.Errorf("the seal is %s, %v", b, err)
	}
	if info, err := os.Stat(f.Sidecar(ref)); err != nil || info.Mode().Perm() != 0o444 {
		t.Errorf("%v, %v", info, err)
	}
	for name, damage := range map[string]func() error{
		"another instance's": func() error { return nil },
		"another image's": func() error {
			other := want
			other.Image.Revision = "other"
			return f.WriteSeal(ref, other, 0o444)
		},
		"cut off": func() error {
			return errors.Join(os.Remove(f.Sidecar(ref)), os.WriteFile(f.Sidecar(ref), []byte(`{"instance":"one"`), 0o600))
		},
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		instance := providers.Instance("one")
		if strings.HasPrefix(name, "another instance") {
			instance = "two"
		}
		if err := f.ReadSeal(instance, ref, &got); !errors.Is(err, providers.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_ = os.Remove(f.Sidecar(ref))
	if err := os.Mkdir(f.Sidecar(ref), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.ReadSeal("one", ref, &got); !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("unreadable: %v", err)
	}
}
