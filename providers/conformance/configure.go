package conformance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// keys are public keys whose private halves nobody has: they are digests.
var keys = []string{
	"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIFekejB9hgnjPIxzBeozQdlrYpQnIY3N370rpTFxUMX one@example",
	"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEQQiw2yzAo00BglGqEkIDMvLCqfrg6k5flP9PT/a1Xx two@example",
	"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOcD+nlYgqA1OujWh+si13bGGa9rHPq/DMB0kvttV81v three@example",
}

func (s *suite) testKeys(t *testing.T) {
	s.need(t, GuestKeys)
	id := s.guest(t)
	for _, set := range [][]string{{keys[0], keys[1]}, {keys[2]}, nil} {
		cfg := providers.GuestConfig{User: s.b.User, SSHAuthorizedKeys: set}
		must(t, "configure", s.p.ConfigureGuest(s.ctx(t), id, cfg))
		o := s.exec(t, id, providers.ExecRequest{
			Command: []string{"sh", "-c", `[ ! -e "$HOME/.ssh/authorized_keys" ] || cat "$HOME/.ssh/authorized_keys"`},
			User:    s.b.User,
		})
		var got []string
		for line := range strings.Lines(o.stdout) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				got = append(got, line)
			}
		}
		if strings.Join(got, "\n") != strings.Join(set, "\n") {
			t.Errorf("the keys are %q, want %q", got, set)
		}
	}
}

func (s *suite) testBadConfig(t *testing.T) {
	s.detail(t)
	id := s.guest(t)
	for name, cfg := range map[string]providers.GuestConfig{
		"no such user":           {User: "no-such-user", SSHAuthorizedKeys: keys[:1]},
		"a user that is a path":  {User: "../root", SSHAuthorizedKeys: keys[:1]},
		"a key of two lines":     {User: s.b.User, SSHAuthorizedKeys: []string{keys[0] + "\n" + keys[1]}},
		"keys for nobody":        {SSHAuthorizedKeys: keys[:1]},
		"a folder it has not":    {Mounts: []v1.SharedFolder{{Name: "other", HostPath: "/etc"}}},
		"a folder made writable": {Mounts: []v1.SharedFolder{{Name: "inputs", HostPath: "/etc", ReadOnly: new(bool)}}},
	} {
		want(t, name, s.p.ConfigureGuest(s.ctx(t), id, cfg), providers.ErrInvalid)
	}
	must(t, "nothing to configure", s.p.ConfigureGuest(s.ctx(t), id, providers.GuestConfig{}))
}

// testMounts mounts one folder to read and one to write, and tries to write to
// the first and to leave both.
func (s *suite) testMounts(t *testing.T) {
	s.need(t, SharedFolders)
	id := s.guest(t)
	secret := filepath.Join(t.TempDir(), "secret")
	input := filepath.Join(s.folders.readOnly, "input")
	must(t, "write", os.WriteFile(secret, []byte("secret"), 0o644))
	must(t, "write", os.WriteFile(input, []byte("input"), 0o644))
	must(t, "link", os.Symlink(secret, filepath.Join(s.folders.readOnly, "link")))
	cfg := providers.GuestConfig{Mounts: []v1.SharedFolder{
		{Name: "inputs", HostPath: s.folders.readOnly},
		{Name: "outputs", HostPath: s.folders.writable, ReadOnly: new(bool), MountPath: "/mnt/deep/outputs"},
	}}
	for range 2 {
		must(t, "configure", s.p.ConfigureGuest(s.ctx(t), id, cfg))
	}
	const at = "/mnt/inputs"
	if got := s.sh(t, id, `cat "$1/input"`, at); got != "input" {
		t.Errorf("the guest reads %q", got)
	}
	if o := s.try(t, id, `cat "$1/link"`, at); strings.Contains(o.stdout, "secret") {
		t.Error("by a symbolic link the guest reads a file of the host outside the folder")
	}
	// A shell may end when it cannot redirect, so each has one of its own.
	o := s.try(t, id, `(echo changed > "$1/input") && echo wrote; (echo new > "$1/new") && echo created; rm "$1/input" && echo removed
mkdir "$1/dir" && echo made; mount -o remount,rw "$1" >/dev/null; (echo changed > "$1/input") && echo rewrote`, at)
	if o.stdout != "" {
		t.Errorf("in a read-only folder the guest has %q", strings.Fields(o.stdout))
	}
	entries, err := os.ReadDir(s.folders.readOnly)
	if b, readErr := os.ReadFile(input); err != nil || len(entries) != 2 || readErr != nil || string(b) != "input" {
		t.Errorf("on the host the read-only folder has %v, %v, and the file holds %q, %v", entries, err, b, readErr)
	}
	s.sh(t, id, `echo output > /mnt/deep/outputs/file`)
	if b, err := os.ReadFile(filepath.Join(s.folders.writable, "file")); err != nil || string(b) != "output\n" {
		t.Errorf("what the guest wrote is %q on the host, %v", b, err)
	}
	must(t, "write", os.WriteFile(filepath.Join(s.folders.writable, "late"), []byte("late"), 0o644))
	if got := s.sh(t, id, "cat /mnt/deep/outputs/late"); got != "late" {
		t.Errorf("what the host wrote later is %q in the guest", got)
	}
	if !s.has(Suspend) {
		return
	}
	// A hypervisor either refuses to save a mounted folder, or brings it back.
	if err := s.p.Suspend(s.ctx(t), id); err != nil {
		want(t, "suspend with folders mounted", err, providers.ErrUnsupported)
		s.wantPower(t, id, providers.PowerRunning)
	} else {
		s.boot(t, id)
	}
	if got := s.sh(t, id, `cat "$1/input"`, at); got != "input" {
		t.Errorf("after an attempt to suspend it, the guest reads %q", got)
	}
}
