package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

func identity(system, crd string) Identity {
	return Identity{System: types.UID(system), Definitions: map[string]types.UID{"sandboxes.sandboxd.dev": types.UID(crd)}}
}

// open opens a record and closes it at the end of the test.
func open(t *testing.T, dir, accepted string) *Record {
	t.Helper()
	r, err := Open(dir, accepted)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func TestRecordIsOfOneProcessAndStays(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, "")
	if _, err := Open(dir, ""); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("opened twice: %v", err)
	}
	instance := r.Instance()
	if err := errors.Join(r.Join(identity("a", "1")), r.Check(identity("a", "1"), "10"), r.Close()); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir, "")
	if again.Instance() != instance {
		t.Errorf("instance %s became %s", instance, again.Instance())
	}
	if err := again.Check(identity("a", "1"), "9"); !errors.Is(err, ErrSetBack) {
		t.Errorf("the mark was not kept: %v", err)
	}
}

func TestDamagedRecord(t *testing.T) {
	for _, content := range []string{"", "{", "{}", `{"instance":""}`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, File), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := Open(dir, ""); err == nil {
			t.Errorf("%q is taken for a record of instance %s", content, r.Instance())
		}
	}
}

// TestAnotherCluster: what another cluster does not know is no garbage, until somebody
// who knows says so, for that cluster.
func TestAnotherCluster(t *testing.T) {
	home := identity("a", "1")
	for name, c := range map[string]struct {
		found    Identity
		accepted string
		says     string // empty: joined
	}{
		"the same":                     {home, "", ""},
		"another":                      {identity("b", "1"), "", "it is another cluster"},
		"another, accepted":            {identity("b", "1"), identity("b", "1").Fingerprint(), ""},
		"another than accepted":        {identity("c", "1"), identity("b", "1").Fingerprint(), "it is another cluster"},
		"definitions made anew":        {identity("a", "2"), "", "definitions of sandboxd's kinds were removed"},
		"made anew, own was accepted":  {identity("a", "2"), home.Fingerprint(), "definitions of sandboxd's kinds were removed"},
		"made anew, and accepted":      {identity("a", "2"), identity("a", "2").Fingerprint(), ""},
		"another, something was typed": {identity("b", "1"), "yes", "it is another cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			first := open(t, dir, "")
			if err := errors.Join(first.Join(home), first.Check(home, "100"), first.Close()); err != nil {
				t.Fatal(err)
			}
			r := open(t, dir, c.accepted)
			err := r.Join(c.found)
			if c.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				revision := "100"
				if !c.found.Equal(home) {
					revision = "1" // a cluster of its own, with versions of its own
				}
				if err := r.Check(c.found, revision); err != nil {
					t.Errorf("joined, but %v", err)
				}
				return
			}
			if !errors.Is(err, ErrAnother) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "--cluster-accept "+c.found.Fingerprint()) {
				t.Errorf("got %v, want %q", err, c.says)
			}
			if err := r.Check(c.found, "1000"); !errors.Is(err, ErrAnother) {
				t.Errorf("its lists are relied on: %v", err)
			}
			if err := r.Check(home, "101"); err != nil {
				t.Errorf("its own is not relied on any more: %v", err)
			}
		})
	}
}

func TestSetBack(t *testing.T) {
	home := identity("a", "1")
	for name, c := range map[string]struct {
		revisions []string
		back      bool
	}{
		"later":                  {[]string{"101", "101", "105"}, false},
		"the same":               {[]string{"100", "100"}, false},
		"longer, and so greater": {[]string{"1000"}, false},
		"earlier":                {[]string{"99"}, true},
		"earlier in between":     {[]string{"120", "110"}, true},
		"no number":              {[]string{"latest"}, true},
		"none":                   {[]string{""}, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := open(t, t.TempDir(), "")
			if err := errors.Join(r.Join(home), r.Check(home, "100")); err != nil {
				t.Fatal(err)
			}
			if err := r.Check(home, c.revisions...); errors.Is(err, ErrSetBack) != c.back {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestAcceptedSetBack: what is accepted is good for once.
func TestAcceptedSetBack(t *testing.T) {
	dir, home := t.TempDir(), identity("a", "1")
	r := open(t, dir, "")
	if err := errors.Join(r.Join(home), r.Check(home, "100")); err != nil {
		t.Fatal(err)
	}
	refused := r.Check(home, "50")
	_, accept, ok := strings.Cut(refused.Error(), "--cluster-accept ")
	if !ok {
		t.Fatalf("it does not say how it is accepted: %v", refused)
	}
	_ = r.Close()
	r = open(t, dir, accept)
	if err := r.Check(home, "50", "60"); err != nil {
		t.Fatal(err)
	}
	if err := r.Check(home, "55"); !errors.Is(err, ErrSetBack) {
		t.Errorf("accepted twice: %v", err)
	}
}
