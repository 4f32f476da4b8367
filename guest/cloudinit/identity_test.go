package cloudinit

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestOwnIdentity runs the guest's script on a directory in place of its root.
func TestOwnIdentity(t *testing.T) {
	const inherited = "0123456789abcdef0123456789abcdef\n"
	now, longAgo := time.Now(), time.Unix(1_000_000_000, 0)
	tests := []struct {
		name    string
		id      string
		born    time.Time
		dbus    bool
		replace bool
	}{
		{"inherited", inherited, longAgo, true, true},
		{"inherited, without D-Bus", inherited, longAgo, false, true},
		{"made at this boot", inherited, now.Add(time.Hour), true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			for _, dir := range []string{"etc", "var/lib/dbus", "var/lib/systemd"} {
				must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
			}
			id, dbus, seed := filepath.Join(root, "etc/machine-id"), filepath.Join(root, "var/lib/dbus/machine-id"), filepath.Join(root, "var/lib/systemd/random-seed")
			must(t, os.WriteFile(id, []byte(tt.id), 0o444))
			must(t, os.Chtimes(id, tt.born, tt.born))
			must(t, os.WriteFile(seed, []byte("seed"), 0o600))
			if tt.dbus {
				must(t, os.WriteFile(dbus, []byte(tt.id), 0o644))
			}
			script := strings.NewReplacer("/etc/", root+"/etc/", "/var/", root+"/var/").Replace(ownIdentity)
			if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil || len(out) > 0 {
				t.Fatalf("%v: %s", err, out)
			}
			got, err := os.ReadFile(id)
			must(t, err)
			if replaced := string(got) != inherited; replaced != tt.replace || len(got) != len(inherited) {
				t.Errorf("machine ID %q, want another one: %t", got, tt.replace)
			}
			if also, err := os.ReadFile(dbus); tt.dbus && (err != nil || string(also) != string(got)) || !tt.dbus && err == nil {
				t.Errorf("D-Bus has %q (%v), want %q: %t", also, err, got, tt.dbus)
			}
			if _, err := os.Stat(seed); err == nil {
				t.Error("the saved randomness is still there")
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
